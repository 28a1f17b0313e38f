"""From texts to token ids: prompt template, tokenising, truncation.

The tokenizer is the artifact's own tokenizer.json; nothing here adds a token that it would not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import tokenizers

from runtime.errors import (
    ArtifactError,
    BlankInput,
    ForbiddenText,
    InputTooLong,
    NoPassages,
    ProfileError,
)

Truncate = Literal["NONE", "END", "START"]
Ints = npt.NDArray[np.int64]


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

    def encode(self, query: str, passages: Sequence[str], truncate: Truncate = "NONE") -> Encodings:
        """Encode every pair; special tokens are counted.

        END drops tokens from the passage's end, START from its start; when no passage token is
        left, from the same side of what comes before it. Raises InputTooLong for the first pair
        over `max_tokens` when `truncate` is NONE, and InputRejected for texts that cannot be
        encoded.
        """
        check_texts(query, passages)
        found = self._tokenizer.encode_batch_fast([self._pair(query, p) for p in passages])
        rows: list[Encoding] = []
        truncated = 0
        for encoding, passage in zip(found, passages, strict=True):
            row = self._row(encoding)
            if len(row) > self.max_tokens:
                if truncate == "NONE":
                    raise InputTooLong(len(row), self.max_tokens)
                row = self._cut(query, passage, from_end=truncate == "END")
                truncated += 1
            rows.append(row)
        return Encodings(rows, truncated)

    def _pair(self, query: str, passage: str) -> str | tuple[str, str]:
        if self._template is None:
            return query, passage
        before, between, after = self._template
        return f"{before}{query}{between}{passage}{after}"

    def _row(self, encoding: tokenizers.Encoding) -> Encoding:
        type_ids = None
        if self._template is None:
            type_ids = np.asarray(encoding.type_ids, dtype=np.int64)
        return Encoding(np.asarray(encoding.ids, dtype=np.int64), type_ids)

    def _cut(self, query: str, passage: str, *, from_end: bool) -> Encoding:
        pair = self._pair(query, passage)
        (encoding,) = self._tokenizer.encode_batch([pair])  # with offsets, unlike the fast form
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
        """Which tokens lie wholly inside the passage; one that holds template text does not."""
        if self._template is None:
            return np.asarray([s == 1 for s in encoding.sequence_ids], dtype=bool)
        before, between, _ = self._template
        start = len(before) + len(query) + len(between)
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        added = np.asarray([s is None for s in encoding.sequence_ids], dtype=bool)
        inside = (offsets[:, 0] >= start) & (offsets[:, 1] <= start + len(passage))
        return np.asarray(inside & ~added, dtype=bool)


def load_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer in `path` (tokenizer.json); ArtifactError when it cannot be read."""
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ArtifactError(
            f"cannot read tokenizer/{path.name}: {error}; copy the checkpoint's tokenizer files "
            "into the folder tokenizer/"
        ) from error


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
    if "\0" in text:
        raise ForbiddenText(what, "a NUL character")
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
