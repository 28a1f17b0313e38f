"""What a caller asks of a model: one frozen object from the surface to the encoder."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from runtime.errors import NoInputs, NoPassages, TextPlace
from runtime.postprocess import Floats, InputType, Ints
from runtime.text_checks import check_text

Truncate = Literal["NONE", "END", "START"]
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class TokenLimits:
    """Token limits of a caller, 1 or more; None, or more than the engine's limit: the engine's
    limit.

    `query` and `passage` keep the first tokens of a text by itself. `pair` counts query, passage,
    template and special tokens (of an embedder, text and prefix); a longer pair is cut as
    `truncate` says.
    """

    query: int | None = None
    passage: int | None = None
    pair: int | None = None


NO_LIMITS = TokenLimits()


@dataclass(frozen=True)
class ImageEmbeddings:
    """An image's embeddings float32 [tiles, tokens, hidden]; `digest` is the file's sha256."""

    digest: bytes
    embeds: Floats

    @property
    def tiles(self) -> int:
        """How many there are."""
        return len(self.embeds)

    @property
    def tokens(self) -> int:
        """How many tokens stand for them in a row."""
        return int(np.prod(self.embeds.shape[:2]))


@dataclass(frozen=True)
class Passage:
    """A text, an image, or both; the text may be empty beside an image. The `image` is the bytes of
    its file, and from the vision tower on its embeddings."""

    text: str = ""
    image: bytes | ImageEmbeddings | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What requests of both kinds say beside their texts.

    `limits` bound the tokens, `truncate` says how a longer text is cut. With `blanks`, texts may be
    blank. `deadline` is in seconds of time.monotonic(). Fair queueing counts by `caller`; requests
    without one are one caller.
    """

    truncate: Truncate = "NONE"
    limits: TokenLimits = NO_LIMITS
    blanks: bool = False
    deadline: float | None = None
    caller: str = ""


@dataclass(frozen=True)
class RankRequest(Request):
    """Score every passage, one of `texts`, for the `query`: one for all, or a list of one for each
    passage. An `instruction` stands in the model's prompt instead of its default, and counts as
    part of the query. If texts are `plain`, no part of them is a special token
    (`runtime.plain_texts`). Errors name texts as in "query", "queries[3]", "passages[3]" and
    "instruction"."""

    query: str | Sequence[str]
    texts: Sequence[str | Passage]
    instruction: str | None = None
    plain: bool = False

    @cached_property
    def characters(self) -> Ints:
        """The lengths of each row's query, with an instruction, and passage, int64 [n, 2]."""
        query, told = self.query, len(self.instruction or "")
        queries = len(query) if isinstance(query, str) else _lengths(query)
        return _columns(told + queries, self.texts)

    def image_place(self, index: int) -> TextPlace:
        """How errors name the image of a passage."""
        return TextPlace("passages", index, "image")

    def pairs(self) -> list[tuple[str, str]]:
        """Query and passage of each row. Raises InputRejected for texts that no engine can
        score."""
        if not self.texts:
            raise NoPassages
        check_text(TextPlace("instruction"), self.instruction or "", blanks=True)
        queries: Sequence[str]
        if isinstance(self.query, str):
            check_text(TextPlace("query"), self.query, blanks=self.blanks)
            queries, checked = [self.query] * len(self.texts), {self.query}
        else:
            queries, checked = self.query, set()
        found: list[tuple[str, str]] = []
        for index, (query, text) in enumerate(zip(queries, self.texts, strict=True)):
            if query not in checked:  # named by the first pair that has it
                check_text(TextPlace("queries", index), query, blanks=self.blanks)
                checked.add(query)
            found.append((query, _checked(TextPlace("passages", index), text, blanks=self.blanks)))
        return found


@dataclass(frozen=True)
class EmbedRequest(Request):
    """Embed every text in `dimensions` components (None, or more than there are: all).

    `input_type` is required where the model embeds queries and passages differently. Of `limits`,
    `pair` bounds a text with its prefix; leave the others alone. Errors name a text as in
    "input[3]".
    """

    texts: Sequence[str | Passage]
    input_type: InputType | None = None
    dimensions: int | None = None

    @cached_property
    def characters(self) -> Ints:
        """As of RankRequest; there is no query."""
        return _columns(0, self.texts)

    def image_place(self, index: int) -> TextPlace:
        """How errors name an image."""
        return TextPlace("input", index, "image")

    def checked_texts(self) -> list[str]:
        """The texts. Raises InputRejected for those that no engine can embed."""
        if not self.texts:
            raise NoInputs
        return [
            _checked(TextPlace("input", index), text, blanks=self.blanks)
            for index, text in enumerate(self.texts)
        ]


AnyRequest = RankRequest | EmbedRequest


def time_left_s(deadline: float | None) -> float | None:
    """Seconds until `deadline`, at least 0; None without one."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def images_of(request: AnyRequest) -> list[bytes | ImageEmbeddings | None]:
    """The image of each text, None where it has none; empty if no text has one."""
    if not any(isinstance(text, Passage) and text.image is not None for text in request.texts):
        return []
    return [text.image if isinstance(text, Passage) else None for text in request.texts]


def image_tokens_of(request: AnyRequest) -> Ints:
    """How many tokens of each row stand for an image that the tower has seen, int64 [n]."""
    images = (text.image if isinstance(text, Passage) else None for text in request.texts)
    tokens = (image.tokens if isinstance(image, ImageEmbeddings) else 0 for image in images)
    return np.fromiter(tokens, np.int64, len(request.texts))


def _checked(place: TextPlace, text: str | Passage, *, blanks: bool) -> str:
    """The text; it may be blank beside an image."""
    if isinstance(text, Passage):
        blanks = blanks or text.image is not None
        text = text.text
    check_text(place, text, blanks=blanks)
    return text


def _columns(queries: int | npt.NDArray[np.int64], texts: Sequence[str | Passage]) -> Ints:
    found = np.empty((len(texts), 2), np.int64)
    found[:, 0] = queries
    found[:, 1] = _lengths([text if isinstance(text, str) else text.text for text in texts])
    return found


def _lengths(texts: Sequence[str]) -> Ints:
    return np.fromiter(map(len, texts), np.int64, len(texts))
