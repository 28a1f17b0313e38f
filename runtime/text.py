"""From texts to token ids: prompt template, tokenising, truncation.

The tokenizer is the artifact's own tokenizer.json; nothing here adds a token that it would not.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import tokenizers

from runtime.errors import (
    ArtifactError,
    BlankInput,
    DeadlineExceeded,
    ForbiddenText,
    InputTooLong,
    InputTypeWanted,
    NoInputs,
    NoPassages,
    ProfileError,
)
from runtime.model_files import TOKENIZER_BYTES, read_bounded
from runtime.postprocess import InputType

Truncate = Literal["NONE", "END", "START"]
Ints = npt.NDArray[np.int64]
_Pair = str | tuple[str, str]

# Tokens of real text have about four characters. Text that needs more than this many for each
# token of the limit is looked at in parts: a tokenised character costs some 200 bytes of memory.
_LONG_CHARS_PER_TOKEN = 32
# Texts tokenised at a time: enough to use every core, few enough to bound memory and to notice
# a deadline.
_CHUNK_CHARS = 1 << 20
_PIECE_CHARS = 1 << 16


@dataclass(frozen=True)
class Encoding:
    """One tokenised pair, unpadded.

    `token_ids` int64 [n]; `type_ids` int64 [n] tells query (0) from passage (1) for families
    whose tokenizer joins the pair, and is None for those with a template.
    """

    token_ids: Ints
    type_ids: Ints | None

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class Encodings:
    """All pairs of one request in the order of its passages; `truncated` of them were cut."""

    rows: list[Encoding]
    truncated: int


class PairEncoder:
    """Turns (query, passage) pairs into encodings of at most `max_tokens` tokens.

    Safe to call from several threads; tokenising runs in Rust threads without the GIL.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, template: str | None, max_tokens: int):
        # A checkpoint may have left its training-time cutting and padding in tokenizer.json.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._template = None if template is None else _split_template(template)
        self.max_tokens = max_tokens

    def encode(
        self,
        query: str,
        passages: Sequence[str],
        truncate: Truncate = "NONE",
        deadline: float | None = None,
        passage_tokens: int | None = None,
    ) -> Encodings:
        """Encode every pair; special tokens are counted.

        Of each passage only the first `passage_tokens` tokens are looked at; None: all of them.

        END drops tokens from the passage's end, START from its start; when no passage token is
        left, from the same side of what comes before it. Raises InputTooLong for the first pair
        over `max_tokens` when `truncate` is NONE, InputRejected for texts that cannot be encoded,
        and DeadlineExceeded when time.monotonic() passes `deadline` on the way.
        """
        check_texts(query, passages)
        return self.encode_checked(query, passages, truncate, deadline, passage_tokens)

    def encode_checked(
        self,
        query: str,
        passages: Sequence[str],
        truncate: Truncate,
        deadline: float | None,
        passage_tokens: int | None = None,
    ) -> Encodings:
        """`encode` for texts that the caller has looked at; the query may be empty."""
        begun = self._beginnings(passages, passage_tokens, deadline)
        near = [self._near(passage, truncate) for passage in begun]
        cut = {index for index, text in enumerate(near) if len(text) < len(passages[index])}
        query = self._near(query, truncate)
        rows: list[Encoding] = []
        for chunk in _chunks(query, near):
            _check_deadline(deadline)
            if truncate == "NONE":
                self._refuse_vast(query, chunk)
            found = self._encode_chunk(query, chunk)
            long = [index for index, row in enumerate(found) if len(row) > self.max_tokens]
            if long and truncate == "NONE":
                raise InputTooLong(len(found[long[0]]), self.max_tokens)
            for index, row in zip(long, self._cut(query, chunk, long, truncate), strict=True):
                found[index] = row
                cut.add(len(rows) + index)
            rows += found
        return Encodings(rows, len(cut))

    def _beginnings(
        self, passages: Sequence[str], tokens: int | None, deadline: float | None
    ) -> Sequence[str]:
        """The passages up to the end of their first `tokens` tokens."""
        if tokens is None:
            return passages
        # What lies behind the engine's bound is cut anyway, and need not be tokenised for that.
        most = min(tokens, self.max_tokens)
        begun = []
        for passage in passages:
            _check_deadline(deadline)
            begun.append(first_tokens(self._tokenizer, passage, most))
        return begun

    def _near(self, text: str, truncate: Truncate) -> str:
        """What of a vast text lies near enough to the kept side to matter; `text` if it is not."""
        limit = self.max_tokens * _LONG_CHARS_PER_TOKEN
        if truncate == "NONE" or len(text) <= limit:
            return text
        return text[:limit] if truncate == "END" else text[-limit:]

    def _refuse_vast(self, query: str, passages: Sequence[str]) -> None:
        """Raise InputTooLong for a vast pair without tokenising it as a whole.

        Its length is counted piece by piece, with the pieces cut before a blank, where
        tokenizers cut too.
        """
        limit = self.max_tokens * _LONG_CHARS_PER_TOKEN
        for passage in passages:
            if len(query) + len(passage) <= limit:
                continue
            first, *rest = _pieces(passage)
            count = len(self._encode_chunk(query, [first])[0])
            for piece in rest:
                count += len(self._tokenizer.encode(piece, add_special_tokens=False).ids)
            if count > self.max_tokens:
                raise InputTooLong(count, self.max_tokens)

    def _pair(self, query: str, passage: str) -> _Pair:
        if self._template is None:
            return query, passage
        before, between, after = self._template
        return f"{before}{query}{between}{passage}{after}"

    def _encode_chunk(self, query: str, passages: Sequence[str]) -> list[Encoding]:
        pairs = [self._pair(query, passage) for passage in passages]
        return [self._row(found) for found in self._tokenizer.encode_batch_fast(pairs)]

    def _row(self, encoding: tokenizers.Encoding) -> Encoding:
        type_ids = None
        if self._template is None:
            type_ids = np.asarray(encoding.type_ids, dtype=np.int64)
        return Encoding(np.asarray(encoding.ids, dtype=np.int64), type_ids)

    def _cut(
        self, query: str, passages: Sequence[str], long: Sequence[int], truncate: Truncate
    ) -> list[Encoding]:
        """The pairs with the passages numbered `long`, cut to `max_tokens`."""
        if not long:
            return []
        pairs = [self._pair(query, passages[index]) for index in long]
        encodings = self._tokenizer.encode_batch(pairs)  # with offsets, unlike the fast form
        return [
            self._cut_one(encoding, query, passages[index], from_end=truncate == "END")
            for encoding, index in zip(encodings, long, strict=True)
        ]

    def _cut_one(
        self, encoding: tokenizers.Encoding, query: str, passage: str, *, from_end: bool
    ) -> Encoding:
        row = self._row(encoding)
        in_passage = self._passage_tokens(encoding, query, passage)
        special = np.asarray(encoding.special_tokens_mask, dtype=bool) & ~in_passage
        keep = np.ones(len(row), dtype=bool)
        excess = len(row) - self.max_tokens
        # The passage gives way first, then query and template, the tokenizer's own tokens last.
        for droppable in (in_passage, ~in_passage & ~special, special):
            positions = np.flatnonzero(droppable)
            count = min(excess, len(positions))
            keep[positions[len(positions) - count :] if from_end else positions[:count]] = False
            excess -= count
        type_ids = None if row.type_ids is None else row.type_ids[keep]
        return Encoding(row.token_ids[keep], type_ids)

    def _passage_tokens(
        self, encoding: tokenizers.Encoding, query: str, passage: str
    ) -> npt.NDArray[np.bool_]:
        """Which tokens lie wholly inside the passage; one that holds template text does not,
        but for the blank before a first word, which most tokenizers take with the word."""
        if self._template is None:
            return np.asarray([s == 1 for s in encoding.sequence_ids], dtype=bool)
        before, between, _ = self._template
        ahead = f"{before}{query}{between}"
        start = len(ahead)
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        added = np.asarray([s is None for s in encoding.sequence_ids], dtype=bool)
        inside = (offsets[:, 0] >= len(ahead.rstrip())) & (offsets[:, 1] > start)
        inside &= offsets[:, 1] <= start + len(passage)
        return np.asarray(inside & ~added, dtype=bool)


class TextEncoder:
    """Turns texts into encodings of at most `max_tokens` tokens, for embedders.

    `prefixes` maps input types to what is put before a text; it is cut last.
    """

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, prefixes: Mapping[str, str], max_tokens: int
    ) -> None:
        # One sequence of prefix and text is a pair with an empty template around it.
        self._pairs = PairEncoder(tokenizer, "{query}{passage}", max_tokens)
        self._prefixes = prefixes

    def encode(
        self,
        texts: Sequence[str],
        input_type: InputType | None,
        truncate: Truncate = "NONE",
        deadline: float | None = None,
    ) -> Encodings:
        """Encode every text; special tokens and prefix are counted.

        A model without prefixes takes every `input_type` alike. Raises as PairEncoder.encode does,
        and InputTypeWanted.
        """
        if self._prefixes and input_type is None:
            raise InputTypeWanted
        if not texts:
            raise NoInputs
        for index, text in enumerate(texts):
            _check_text(f"input[{index}]", text)
        prefix = self._prefixes.get(input_type, "") if input_type else ""
        return self._pairs.encode_checked(prefix, texts, truncate, deadline)


@dataclass(frozen=True)
class Token:
    """One token of a text: `special` when the tokenizer added it, else characters `start` to
    `stop` of the text."""

    id: int
    text: str
    special: bool
    start: int
    stop: int


def tokens_of(
    tokenizer: tokenizers.Tokenizer, text: str, *, add_special_tokens: bool
) -> list[Token]:
    """The tokens of `text` alone, without template or prefix. Raises InputRejected."""
    _check_text("inputs", text)
    found = tokenizer.encode(text, add_special_tokens=add_special_tokens)
    parts = zip(found.ids, found.tokens, found.special_tokens_mask, found.offsets, strict=True)
    return [Token(i, token, bool(special), *span) for i, token, special, span in parts]


def first_tokens(tokenizer: tokenizers.Tokenizer, text: str, count: int) -> str:
    """`text` up to the end of its first `count` tokens; of a vast text only what lies near is
    looked at."""
    near = text[: count * _LONG_CHARS_PER_TOKEN]
    offsets = tokenizer.encode(near, add_special_tokens=False).offsets
    return near if len(offsets) <= count else text[: offsets[count - 1][1]]


def load_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer in `path` (tokenizer.json); ArtifactError when it cannot be read."""
    try:
        return tokenizers.Tokenizer.from_buffer(read_bounded(path, TOKENIZER_BYTES))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, its Rust panics
        raise ArtifactError(
            f"cannot read tokenizer/{path.name}: {error}; copy the checkpoint's tokenizer files "
            "into the folder tokenizer/"
        ) from error


def _check_deadline(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise DeadlineExceeded


def _chunks(query: str, passages: Sequence[str]) -> Iterator[Sequence[str]]:
    """Consecutive passages whose pairs have about _CHUNK_CHARS characters together."""
    start = size = 0
    for index, passage in enumerate(passages):
        length = len(query) + len(passage)
        if index > start and size + length > _CHUNK_CHARS:
            yield passages[start:index]
            start, size = index, 0
        size += length
    yield passages[start:]


def _pieces(text: str) -> Iterator[str]:
    """`text` in pieces of about _PIECE_CHARS characters, each but the first with a leading blank
    where the text has one in reach."""
    start = 0
    while start < len(text):
        end = start + _PIECE_CHARS
        blank = text.rfind(" ", start + 1, end) if end < len(text) else -1
        end = blank if blank > 0 else end
        yield text[start:end]
        start = end


def check_texts(query: str, passages: Sequence[str]) -> None:
    """Raise InputRejected for texts that no engine can score."""
    if not passages:
        raise NoPassages
    _check_text("query", query)
    for index, passage in enumerate(passages):
        _check_text(f"passages[{index}]", passage)


def _check_text(what: str, text: str) -> None:
    if not text or text.isspace():
        raise BlankInput(what)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ForbiddenText(what, "half of a surrogate pair") from None


def _split_template(template: str) -> tuple[str, str, str]:
    before, query, rest = template.partition("{query}")
    between, passage, after = rest.partition("{passage}")
    if not (query and passage):
        raise ProfileError(
            f"found the template {template!r}, wanted {{query}} followed by {{passage}} in it"
        )
    return before, between, after
