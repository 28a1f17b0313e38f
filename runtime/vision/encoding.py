"""From texts with images to rows of tokens.

An image's tokens are put between those of the texts around them, by number: what a text says can
neither be taken for an image nor move one, and no image token is ever cut.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import tokenizers

from runtime.errors import (
    ArtifactError,
    ImageNotAllowed,
    InputTooLong,
    InputTypeRequired,
    InstructionNotTaken,
    TextPlace,
)
from runtime.manifest import Manifest
from runtime.requests import (
    NO_LIMITS,
    EmbedRequest,
    ImageEmbeddings,
    Pairs,
    RankRequest,
    Request,
    images_of,
)
from runtime.text import Check, Encoding, Encodings, PairEncoder, TextEncoder, unchecked
from runtime.tokens import encoded
from runtime.vision.layout import ImageEncoding
from runtime.vision.rule import Vision

# Upstream writes this in the place of an image and replaces the first one: where there is no image,
# that is the first one of the texts, and by nothing.
_PLACEHOLDER = "<image>"


def pair_encoder(
    manifest: Manifest, tokenizer: tokenizers.Tokenizer, max_tokens: int
) -> PairEncoder:
    """The encoder of a reranker, of images too if it takes them."""
    if manifest.vision is None:
        return PairEncoder(
            tokenizer,
            manifest.template,
            max_tokens,
            manifest.instruction,
            manifest.instruction_format,
            tokenize_apart=manifest.tokenize_apart,
        )
    assert manifest.template is not None
    return VisionPairEncoder(tokenizer, manifest.template, max_tokens, manifest.vision)


def text_encoder(
    manifest: Manifest, tokenizer: tokenizers.Tokenizer, max_tokens: int
) -> TextEncoder:
    """The encoder of an embedder, of images too if it takes them."""
    if manifest.vision is None:
        return TextEncoder(tokenizer, manifest.prefixes, max_tokens)
    return VisionTextEncoder(tokenizer, manifest.prefixes, max_tokens, manifest.vision)


class _ImageRows:
    """Rows of which some have an image: the text follows it in the `template`, which may begin with
    a blank, and `head` precedes it."""

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        head: str,
        template: str,
        max_tokens: int,
        vision: Vision,
    ) -> None:
        self._behind = PairEncoder(tokenizer, template, max_tokens)
        self._vision = vision
        # The tokens before the image, and how many of them the tokenizer puts before any text.
        self._head = np.asarray(encoded(tokenizer, head, add_special_tokens=True).ids, np.int64)
        self._added = len(encoded(tokenizer, "", add_special_tokens=True))

    def encode(
        self,
        images: Sequence[bytes | ImageEmbeddings | None],
        plain: Callable[[Sequence[int]], Encodings],
        behind: Pairs,
        request: Request,
        check: Check,
    ) -> Encodings:
        """The rows in their order: `plain` makes those of texts alone, by their numbers; `behind`
        are the texts that follow images, which get the room that these leave. Raises InputTooLong.
        """
        most = self._behind.most(request.limits.pair)
        groups: dict[int, list[int]] = {}
        for place, image in enumerate(images):
            tiles = image.tiles if isinstance(image, ImageEmbeddings) else 0
            groups.setdefault(tiles, []).append(place)
        rows: dict[int, Encoding] = {}
        truncated = 0
        for tiles, places in groups.items():
            if not tiles:
                found = plain(places)
                rows |= zip(places, found.rows, strict=True)
            else:
                texts = [behind[place] for place in places]
                found = self._encode_behind(tiles, texts, request, check, most)
                for place, tail in zip(places, found.rows, strict=True):
                    image = images[place]
                    assert isinstance(image, ImageEmbeddings)
                    rows[place] = self._around(image, tail)
            truncated += found.truncated
        return Encodings([rows[place] for place in range(len(images))], truncated)

    def _encode_behind(
        self, tiles: int, texts: Pairs, request: Request, check: Check, most: int
    ) -> Encodings:
        # The tokens that the image and what is before it add to a text.
        taken = len(self._head) - self._added + tiles * self._vision.tokens + 2
        if taken + self._added > most:
            whole = replace(request, truncate="NONE", limits=NO_LIMITS)
            try:
                longest = max(map(len, self._behind.encode_pairs(texts, whole, check).rows))
            except InputTooLong as error:
                longest = error.found_tokens
            raise InputTooLong(longest + taken, most)
        limits = replace(request.limits, pair=most - taken)
        try:
            return self._behind.encode_pairs(texts, replace(request, limits=limits), check)
        except InputTooLong as error:
            raise InputTooLong(error.found_tokens + taken, most) from None

    def _around(self, image: ImageEmbeddings, tail: Encoding) -> ImageEncoding:
        """The row of an image with the text `tail` behind it."""
        vision = self._vision
        context = np.full(image.tiles * vision.tokens, vision.context, np.int64)
        behind = tail.token_ids[self._added :]
        ids = np.concatenate((self._head, [vision.before], context, [vision.after], behind))
        return ImageEncoding(ids, None, image, len(self._head) + 1)


class VisionPairEncoder(PairEncoder):
    """A PairEncoder for passages of which some have an image; these may be blank."""

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, template: str, max_tokens: int, vision: Vision
    ) -> None:
        super().__init__(tokenizer, template, max_tokens)
        self._rows = _ImageRows(tokenizer, "", f" {template}", max_tokens, vision)

    def check_plain(self) -> None:
        """See PairEncoder; the tokens around an image are always read as they are."""
        raise ArtifactError(
            "found RERANK_PLAIN_SPECIAL_TOKENS, but this model takes images, whose prompts it does "
            "not know; leave the setting out"
        )

    def encode(self, request: RankRequest, check: Check = unchecked) -> Encodings:
        """See PairEncoder.encode. No row with an image is without any token."""
        if request.instruction:
            raise InstructionNotTaken(TextPlace("instruction"))
        pairs = request.pairs()

        def plain(places: Sequence[int]) -> Encodings:
            bare = [without_placeholder(*pairs[place]) for place in places]
            return self.encode_pairs(bare, request, check)

        images = images_of(request) or [None] * len(pairs)
        return self._rows.encode(images, plain, pairs, request, check)


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
        head = prefixes.get("passage", "")
        self._rows = _ImageRows(tokenizer, head, " {query}{passage}", max_tokens, vision)

    def encode(self, request: EmbedRequest, check: Check = unchecked) -> Encodings:
        """See TextEncoder.encode; an image counts as a passage where no `input_type` is said.
        Raises ImageNotAllowed for a query's."""
        images = images_of(request)
        if not images:
            return super().encode(request, check)
        if request.input_type is None and None in images:
            raise InputTypeRequired
        for index, image in enumerate(images):
            if image is not None and request.input_type == "query":
                raise ImageNotAllowed(request.image_place(index), "a query has none")
        texts = request.checked_texts()

        def plain(places: Sequence[int]) -> Encodings:
            # Looked at above, under the numbers that they have in the request.
            alone = replace(request, texts=[texts[place] for place in places], blanks=True)
            return super(VisionTextEncoder, self).encode(alone, check)

        return self._rows.encode(images, plain, [("", text) for text in texts], request, check)


def without_placeholder(query: str, passage: str) -> tuple[str, str]:
    """A pair without an image, as a reranker of images reads it."""
    if _PLACEHOLDER in query:
        return query.replace(_PLACEHOLDER, "", 1), passage
    return query, passage.replace(_PLACEHOLDER, "", 1)
