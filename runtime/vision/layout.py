"""Where the embeddings of images go among the tokens of an engine call."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.profile import PaddingSide
from runtime.requests import ImageEmbeddings
from runtime.shapes import Shape
from runtime.text import Encoding
from runtime.vision.rule import Vision

# A tower's graph, and the inputs that a text graph has for images.
PIXELS_INPUT, EMBEDS_OUTPUT = "pixel_values", "image_embeds"
INDEX_INPUT, EMBEDS_INPUT = "image_index", EMBEDS_OUTPUT


@dataclass(frozen=True)
class ImageEncoding(Encoding):
    """A row with one image, whose image tokens are those from `start` on."""

    image: ImageEmbeddings
    start: int

    @property
    def image_tokens(self) -> int:
        """See Encoding."""
        return self.image.tokens

    @property
    def key(self) -> tuple[bytes, ...]:
        """See Encoding."""
        return *super().key, self.image.digest


def image_inputs(
    rows: Sequence[Encoding], side: PaddingSide, shape: Shape, vision: Vision
) -> dict[str, npt.NDArray[np.generic]]:
    """`image_embeds` float32 [tiles, tokens, hidden] of the images in `rows`, and `image_index`
    int64 of the `shape`: 0 where a token's own embedding stands, else the number of the one of the
    image that stands there, counted from 1 over all tiles.

    Rows are padded as `assemble` pads them. An image that several rows show is there once.
    """
    index = np.zeros(shape, np.int64)
    first_of: dict[bytes, int] = {}
    images: list[ImageEmbeddings] = []
    count = 0
    # A larger shape is filled up with copies of the first row.
    for number, row in enumerate([*rows, *[rows[0]] * (shape[0] - len(rows))]):
        if not isinstance(row, ImageEncoding):
            continue
        tokens = row.image_tokens
        if row.image.digest not in first_of:
            first_of[row.image.digest] = count
            images.append(row.image)
            count += tokens
        first = first_of[row.image.digest]
        start = row.start + (shape[1] - len(row) if side == "left" else 0)
        index[number, start : start + tokens] = np.arange(first + 1, first + tokens + 1)
    nothing = np.empty((0, vision.tokens, vision.hidden), np.float32)
    embeds = np.concatenate([nothing, *(image.embeds for image in images)])
    return {INDEX_INPUT: index, EMBEDS_INPUT: embeds}
