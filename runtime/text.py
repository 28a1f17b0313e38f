"""From texts to token ids: prompt template, tokenising, truncation.

The tokenizer is the artifact's own tokenizer.json; nothing here adds a token that it would not.
"""

import itertools
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import tokenizers

from runtime.errors import (
    ArtifactError,
    InputTooLong,
    InputTypeRequired,
    InstructionNotTaken,
    NoTokens,
    TextPlace,
    TextTooLarge,
)
from runtime.model_files import TOKENIZER_BYTES, read_bounded
from runtime.parts import CHUNK_CHARS, chunks, part
from runtime.plain_texts import PlainTexts
from runtime.postprocess import Ints
from runtime.reading import Reading, read_offsets, read_pairs
from runtime.requests import EmbedRequest, Pairs, RankRequest, Request, Truncate
from runtime.template import Template
from runtime.tokens import encoded, pieces

# Raises if the caller's work is no longer needed: its deadline has passed, or the client is gone.
Check = Callable[[], None]

# Tokens of real text have about four characters. Longer texts, with more than this many
# characters for each token of the limit, are tokenised in parts if they are cut: a tokenised
# character costs some 200 bytes of memory.
_LONG_CHARS_PER_TOKEN = 32
# A pair of more characters is not tokenised at once: that takes some seconds and 250 MB.
_MOST_CHARS = 1 << 22
_MOST_AT_A_JOINT = 2
# Spare tokens that are kept of a text that is cut by itself: in a pair its end may have fewer.
_SPARE_TOKENS = 128


def unchecked() -> None:
    """The Check of work without a deadline or a client."""


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

    @property
    def image_tokens(self) -> int:
        """How many of the tokens stand for an image."""
        return 0

    @property
    def key(self) -> tuple[bytes, ...]:
        """What the output depends on: rows of one key are computed once."""
        type_ids = b"" if self.type_ids is None else self.type_ids.tobytes()
        return self.token_ids.tobytes(), type_ids


@dataclass(frozen=True)
class Encodings:
    """All pairs of one request in the order of its passages; `truncated` of them were cut."""

    rows: list[Encoding]
    truncated: int


class PairEncoder:
    """Turns (query, passage) pairs into encodings of at most `max_tokens` tokens.

    Safe to call from several threads; tokenising runs in Rust threads without the GIL.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        template: str | None,
        max_tokens: int,
        instruction: str | None = None,
        instruction_format: str | None = None,
        *,
        tokenize_apart: bool = False,
    ) -> None:
        """`instruction`, `instruction_format` and `tokenize_apart` are those of a Manifest."""
        # tokenizer.json may have truncation and padding from training.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._template = (
            None
            if template is None
            else Template.parse(
                template, instruction, instruction_format, tokenize_apart=tokenize_apart
            )
        )
        self._plain: PlainTexts | None = None
        self.max_tokens = max_tokens

    def encode(self, request: RankRequest, check: Check = unchecked) -> Encodings:
        """Encode the pairs of a request; special tokens are counted.

        END drops tokens from the passage's end, START from its start; when no passage token is
        left, from the same side of what comes before it; what the template has behind it is never
        dropped. Raises InputTooLong for the first pair over `max_tokens` or `limits.pair` when
        `truncate` is NONE, or where the template's tail alone is longer,
        InputRejected for texts that cannot be encoded, and what `check` raises, which is called on
        the way to cancel the work.
        """
        pairs, limits = request.pairs(), request.limits
        if request.instruction and limits.query is not None:
            # The caller's own instruction is part of the query.
            count = len(encoded(self._tokenizer, request.instruction, add_special_tokens=False))
            if count >= limits.query:
                raise InputTooLong(count + 1, limits.query)
            request = replace(request, limits=replace(limits, query=limits.query - count))
        return self._of(request).encode_pairs(pairs, request, check)

    def check_plain(self) -> None:
        """Raise ArtifactError if requests cannot be `plain`."""
        assert self._plain_texts

    @cached_property
    def _plain_texts(self) -> PlainTexts:
        template = self._template
        return PlainTexts(self._tokenizer, None if template is None else template.telling(None))

    def _of(self, request: RankRequest) -> Self:
        """The encoder of a request: with its instruction, or the default one, and for plain texts
        if it asks for that. Raises InstructionNotTaken."""
        own, template = copy(self), self._template
        if request.instruction and (template is None or template.instruction is None):
            raise InstructionNotTaken(TextPlace("instruction"))
        own._template = None if template is None else template.telling(request.instruction)
        own._plain = self._plain_texts.telling(own._template) if request.plain else None
        return own

    def encode_pairs(
        self, pairs: Pairs, request: Request, check: Check, *, called: str = "passages"
    ) -> Encodings:
        """`encode` for pairs that were checked; `called` names a pair without any token, with its
        number. Raises NoTokens."""
        truncate, limits = request.truncate, request.limits
        most = self.most(limits.pair)
        queries = list(dict.fromkeys(query for query, _ in pairs))
        kept = self._kept(queries, limits.query, truncate, most, check)
        query_of = dict(zip(queries, kept, strict=True))
        passages = [passage for _, passage in pairs]
        kept = self._kept(passages, limits.passage, truncate, most, check)
        bounded = [(query_of[query], text) for (query, _), text in zip(pairs, kept, strict=True)]
        whole = zip(bounded, pairs, strict=True)
        cut = {i for i, (short, texts) in enumerate(whole) if _length(short) < _length(texts)}
        rows: list[Encoding] = []
        for chunk in chunks(bounded, map(_length, bounded)):
            check()
            if truncate == "NONE":
                self._refuse_too_large(chunk, check, most)
            found = self._encode_chunk(chunk)
            long = [index for index, row in enumerate(found) if len(row) > most]
            if long and truncate == "NONE":
                raise InputTooLong(len(found[long[0]]), most)
            cut_rows = self._cut([chunk[index] for index in long], truncate, most)
            for index, row in zip(long, cut_rows, strict=True):
                found[index] = row
                cut.add(len(rows) + index)
            rows += found
        for index, row in enumerate(rows):
            if not len(row):
                raise NoTokens(TextPlace(called, index))
        return Encodings(rows, len(cut))

    def most(self, tokens: int | None) -> int:
        """The smaller of `tokens` and the engine's own limit."""
        return self.max_tokens if tokens is None else min(tokens, self.max_tokens)

    def _kept(
        self, texts: list[str], tokens: int | None, truncate: Truncate, most: int, check: Check
    ) -> list[str]:
        """The texts cut to their first `tokens` tokens, and to what a pair of `most` tokens can
        contain of the side that is kept."""
        if tokens is not None:
            # Text past the engine's limit is cut without being tokenised.
            texts = part(self._reader, texts, self.most(tokens), check)
        long = most * _LONG_CHARS_PER_TOKEN
        places = [index for index, text in enumerate(texts) if len(text) > long]
        if truncate == "NONE" or not places:
            return texts
        near = part(
            self._reader,
            [texts[index] for index in places],
            most + _SPARE_TOKENS,
            check,
            last=truncate == "START",
        )
        texts = list(texts)
        for index, text in zip(places, near, strict=True):
            texts[index] = text
        return texts

    def _refuse_too_large(self, pairs: Pairs, check: Check, most: int) -> None:
        """Raise InputTooLong for a very large pair without tokenising it at once.

        Its length is counted in pieces that are cut before a blank, where tokenizers cut, too. Past
        the first CHUNK_CHARS of a pair that is too long the length is extrapolated, as others wait
        for these threads. A very large pair with few tokens (blanks, for example) is refused as
        TextTooLarge.
        """
        for query, passage in pairs:
            whole = len(query) + len(passage)
            if whole <= CHUNK_CHARS:
                continue
            count = len(self._encode_chunk([("", "")])[0])
            seen = joints = 0
            for piece in itertools.chain(pieces(query), pieces(passage)):
                if count > most and seen >= CHUNK_CHARS:
                    count = count * whole // seen
                    break
                check()
                count += len(encoded(self._reader, piece, add_special_tokens=False))
                seen += len(piece)
                joints += 1
            # At a boundary of pieces the complete text may have fewer tokens.
            if count - _MOST_AT_A_JOINT * joints > most:
                raise InputTooLong(count, most)
            if whole > _MOST_CHARS:
                raise TextTooLarge(whole, _MOST_CHARS)

    @property
    def _reader(self) -> tokenizers.Tokenizer:
        """The tokenizer of a text by itself."""
        return self._tokenizer if self._plain is None else self._plain.bare

    def _encode_chunk(self, pairs: Pairs) -> list[Encoding]:
        if self._plain is not None:
            return [self._row(found) for found in self._plain.read(pairs)]
        encodings = read_pairs(self._tokenizer, self._template, pairs)
        # Not a Reading each: lists of offsets take long.
        typed = self._template is None
        return [
            Encoding(
                np.asarray(found.ids, dtype=np.int64),
                np.asarray(found.type_ids, dtype=np.int64) if typed else None,
            )
            for found in encodings
        ]

    def _row(self, found: Reading) -> Encoding:
        return Encoding(found.token_ids, found.type_ids if self._template is None else None)

    def _cut(self, pairs: Pairs, truncate: Truncate, most: int) -> list[Encoding]:
        """These pairs, which are too long, cut to `most` tokens."""
        if not pairs:
            return []
        readings = (
            read_offsets(self._tokenizer, self._template, pairs)
            if self._plain is None
            else self._plain.read(pairs)
        )
        return [
            self._cut_one(reading, query, passage, most, from_end=truncate == "END")
            for reading, (query, passage) in zip(readings, pairs, strict=True)
        ]

    def _cut_one(
        self, reading: Reading, query: str, passage: str, most: int, *, from_end: bool
    ) -> Encoding:
        row = self._row(reading)
        in_passage, behind = self._passage_tokens(reading, query, passage)
        special = reading.special & ~in_passage
        ahead = ~(in_passage | behind | special)
        keep = np.ones(len(row), dtype=bool)
        excess = len(row) - most
        # The passage is cut first, then the query and the template before it. The template's tail
        # asks the model, so a row without it is worth nothing; the tokenizer's own tokens last.
        tail = behind & ~special
        if excess > (in_passage | ahead).sum() and tail.any():
            raise InputTooLong(int((tail | special).sum()), most)
        for droppable in (in_passage, ahead, special):
            positions = np.flatnonzero(droppable)
            count = min(excess, len(positions))
            keep[positions[len(positions) - count :] if from_end else positions[:count]] = False
            excess -= count
        type_ids = None if row.type_ids is None else row.type_ids[keep]
        return Encoding(row.token_ids[keep], type_ids)

    def _passage_tokens(
        self, reading: Reading, query: str, passage: str
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which tokens are completely inside the passage, and which reach into the template's tail.

        A token with template text is not inside, except for the blank before a first word, which
        most tokenizers join to the word.
        """
        if self._template is None:
            inside = reading.owners == 1
            return inside, np.zeros_like(inside)
        ahead = f"{self._template.opening}{query}{self._template.between}"
        start = len(ahead)
        offsets, added = reading.offsets, reading.owners < 0
        inside = (offsets[:, 0] >= len(ahead.rstrip())) & (offsets[:, 1] > start)
        behind = offsets[:, 1] > start + len(passage)
        return inside & ~behind & ~added, behind & ~added


class TextEncoder:
    """Turns texts into encodings of at most `max_tokens` tokens, for embedders.

    `prefixes` maps input types to the text before a text, which is cut last.
    """

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, prefixes: Mapping[str, str], max_tokens: int
    ) -> None:
        # One sequence of prefix and text is a pair with an empty template around it.
        self._pairs = PairEncoder(tokenizer, "{query}{passage}", max_tokens)
        self._prefixes = prefixes

    def encode(self, request: EmbedRequest, check: Check = unchecked) -> Encodings:
        """Encode the texts of a request; special tokens and prefix are counted.

        A model without prefixes takes every `input_type` alike. Raises as PairEncoder.encode does,
        and InputTypeRequired.
        """
        if self._prefixes and request.input_type is None:
            raise InputTypeRequired
        prefix = self._prefixes.get(request.input_type, "") if request.input_type else ""
        pairs = [(prefix, text) for text in request.checked_texts()]
        return self._pairs.encode_pairs(pairs, request, check, called="input")


def load_tokenizer(path: Path, vocabulary: int | None = None) -> tokenizers.Tokenizer:
    """The tokenizer in `path` (tokenizer.json) for a model of this `vocabulary`, if it is known.

    ArtifactError when it cannot be read, has unlimited output for a text, or has many more
    entries than the model has.
    """
    # late: the GPU bench has no msgspec
    from runtime.tokenizer_limits import MOST_VOCABULARY, check_tokenizer

    try:
        raw = read_bounded(path, TOKENIZER_BYTES)
        check_tokenizer(raw, MOST_VOCABULARY if vocabulary is None else vocabulary)
        return tokenizers.Tokenizer.from_buffer(raw)
    except (KeyboardInterrupt, SystemExit, ArtifactError):
        raise
    except BaseException as error:  # the library raises bare Exceptions, its Rust panics
        raise ArtifactError(
            f"cannot read tokenizer/{path.name}: {error}; copy the checkpoint's tokenizer files "
            "into the folder tokenizer/"
        ) from error


def _length(texts: tuple[str, str]) -> int:
    return sum(map(len, texts))
