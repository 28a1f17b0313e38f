"""From texts with images to rows of tokens.

An image's tokens are put between those of the texts around them, by number: what a text says can
neither be taken for an image nor move one, and no image token is ever cut.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tokenizers

from runtime.errors import (
    ImageNotAllowed,
    InputTooLong,
    InputTypeRequired,
    NoInputs,
    NoPassages,
    TextPlace,
)
from runtime.postprocess import InputType, Ints
from runtime.text import (
    NO_LIMITS,
    Check,
    Encoding,
    Encodings,
    PairEncoder,
    Pairs,
    TextEncoder,
    TokenLimits,
    Truncate,
    unchecked,
)
from runtime.text_checks import check_text
from runtime.tokens import encoded
from runtime.vision.embeddings import ImageEmbeddings, ImageEncoding
from runtime.vision.rule import Vision

# Upstream writes this in the place of an image and replaces the first one: where there is no image,
# that is the first one of the texts, and by nothing.
_PLACEHOLDER = "<image>"

Images = Sequence[ImageEmbeddings | None]


@dataclass(frozen=True)
class _Frame:
    """What every row with an image begins with: the tokens before the image, and how many of them
    the tokenizer puts before any text."""

    head: Ints
    added: int
    vision: Vision

    @classmethod
    def of(cls, tokenizer: tokenizers.Tokenizer, head: str, vision: Vision) -> "_Frame":
        added = len(encoded(tokenizer, "", add_special_tokens=True))
        ids = encoded(tokenizer, head, add_special_tokens=True).ids
        return cls(np.asarray(ids, np.int64), added, vision)

    def tokens(self, tiles: int) -> int:
        """How many tokens an image of so many tiles and what is before it add to a text."""
        return len(self.head) - self.added + tiles * self.vision.tokens + 2

    def around(self, tail: Encoding, image: ImageEmbeddings) -> ImageEncoding:
        """The row of an image with the text `tail` behind it."""
        vision = self.vision
        context = np.full(image.tiles * vision.tokens, vision.context, np.int64)
        parts = (self.head, [vision.before], context, [vision.after], tail.token_ids[self.added :])
        return ImageEncoding(np.concatenate(parts), None, image, len(self.head) + 1)


class VisionPairEncoder(PairEncoder):
    """A PairEncoder for passages of which some have an image; these may be blank.

    `images` are the passages' own, None where one has none; without the argument none has.
    """

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, template: str, max_tokens: int, vision: Vision
    ) -> None:
        super().__init__(tokenizer, template, max_tokens)
        self._behind = PairEncoder(tokenizer, f" {template}", max_tokens)
        self._frame = _Frame.of(tokenizer, "", vision)

    def encode(
        self,
        query: str,
        passages: Sequence[str],
        truncate: Truncate = "NONE",
        check: Check = unchecked,
        limits: TokenLimits = NO_LIMITS,
        *,
        blanks: bool = False,
        images: Images | None = None,
    ) -> Encodings:
        """See PairEncoder.encode."""
        if not passages:
            raise NoPassages
        check_text(TextPlace("query"), query, blanks=blanks)
        _check_passages(passages, images, blanks=blanks)
        pairs = [(query, passage) for passage in passages]
        return self.encode_checked(pairs, truncate, check, limits, images=images)

    def encode_checked(
        self,
        pairs: Pairs,
        truncate: Truncate,
        check: Check,
        limits: TokenLimits = NO_LIMITS,
        *,
        called: str = "passages",
        images: Images | None = None,
    ) -> Encodings:
        """See PairEncoder.encode_checked. No row with an image is without any token."""

        def plain(places: Sequence[int]) -> Encodings:
            bare = [_without_placeholder(*pairs[place]) for place in places]
            return super(VisionPairEncoder, self).encode_checked(
                bare, truncate, check, limits, called=called
            )

        def behind(places: Sequence[int], room: int) -> Encodings:
            some, bounds = [pairs[place] for place in places], replace(limits, pair=room)
            return self._behind.encode_checked(some, truncate, check, bounds)

        most = min(limits.pair or self.max_tokens, self.max_tokens)
        return _by_tiles(images or [None] * len(pairs), plain, behind, self._frame, most)


class VisionTextEncoder(TextEncoder):
    """A TextEncoder for texts of which some have an image; these may be blank.

    An image belongs to a passage, and stands between its prefix and its text.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        prefixes: Mapping[str, str],
        max_tokens: int,
        vision: Vision,
    ) -> None:
        super().__init__(tokenizer, prefixes, max_tokens)
        # A passage with a blank before it, which is the pair's query here.
        self._behind = PairEncoder(tokenizer, "{query}{passage}", max_tokens)
        self._frame = _Frame.of(tokenizer, prefixes.get("passage", ""), vision)
        self._max_tokens = max_tokens

    def encode(
        self,
        texts: Sequence[str],
        input_type: InputType | None,
        truncate: Truncate = "NONE",
        check: Check = unchecked,
        most_tokens: int | None = None,
        *,
        blanks: bool = False,
        images: Images | None = None,
    ) -> Encodings:
        """See TextEncoder.encode; an image counts as a passage where no `input_type` is said.
        Raises ImageNotAllowed for a query's."""
        images = images or [None] * len(texts)
        if not texts:
            raise NoInputs
        if input_type is None and None in images:
            raise InputTypeRequired
        for index, (text, image) in enumerate(zip(texts, images, strict=True)):
            if image is not None and input_type == "query":
                raise ImageNotAllowed(TextPlace("input", index), "a query has none")
            check_text(TextPlace("input", index), text, blanks=blanks or image is not None)

        def plain(places: Sequence[int]) -> Encodings:
            some = [texts[place] for place in places]
            # Looked at above, under the numbers that they have in the request.
            return super(VisionTextEncoder, self).encode(
                some, input_type, truncate, check, most_tokens, blanks=True
            )

        def behind(places: Sequence[int], room: int) -> Encodings:
            some = [(" ", texts[place]) for place in places]
            return self._behind.encode_checked(some, truncate, check, TokenLimits(pair=room))

        most = min(most_tokens or self._max_tokens, self._max_tokens)
        return _by_tiles(images, plain, behind, self._frame, most)


def _check_passages(passages: Sequence[str], images: Images | None, *, blanks: bool) -> None:
    for index, passage in enumerate(passages):
        seen = images is not None and images[index] is not None
        check_text(TextPlace("passages", index), passage, blanks=blanks or seen)


def _by_tiles(
    images: Images,
    plain: Callable[[Sequence[int]], Encodings],
    behind: Callable[[Sequence[int], int], Encodings],
    frame: _Frame,
    most: int,
) -> Encodings:
    """The rows in their order: `plain` makes those of texts alone, `behind` the texts that follow
    images of so many tiles, with the room that these leave. Raises InputTooLong."""
    groups: dict[int, list[int]] = {}
    for place, image in enumerate(images):
        groups.setdefault(0 if image is None else image.tiles, []).append(place)
    rows: dict[int, Encoding] = {}
    truncated = 0
    for tiles, places in groups.items():
        if not tiles:
            found = plain(places)
            rows |= zip(places, found.rows, strict=True)
        else:
            taken = frame.tokens(tiles)
            if taken + frame.added > most:
                raise InputTooLong(taken + frame.added, most)
            try:
                found = behind(places, most - taken)
            except InputTooLong as error:
                raise InputTooLong(error.found_tokens + taken, most) from None
            for place, tail in zip(places, found.rows, strict=True):
                image = images[place]
                assert image is not None
                rows[place] = frame.around(tail, image)
        truncated += found.truncated
    return Encodings([rows[place] for place in range(len(images))], truncated)


def _without_placeholder(query: str, passage: str) -> tuple[str, str]:
    if _PLACEHOLDER in query:
        return query.replace(_PLACEHOLDER, "", 1), passage
    return query, passage.replace(_PLACEHOLDER, "", 1)
