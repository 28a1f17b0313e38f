"""From an image to tiles, and from tiles to the numbers that the tower reads."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime.postprocess import Floats
from runtime.vision.rule import TileRule

Pixels = npt.NDArray[np.uint8]


def cut(image: Image.Image, rule: TileRule) -> Pixels:
    """The tiles uint8 [tiles, size, size, 3] of an RGB image: row by row, the thumbnail last.

    The whole image is resized to its grid, whatever its proportions, by Pillow's bicubic filter.
    """
    size = rule.size
    columns, rows = rule.grid(image.size)
    resized = np.asarray(_resize(image, columns * size, rows * size))
    tiles = resized.reshape(rows, size, columns, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3)
    if rule.thumbnail and len(tiles) > 1:
        tiles = np.concatenate([tiles, np.asarray(_resize(image, size, size))[None]])
    return np.ascontiguousarray(tiles)


def pixel_values(tiles: Pixels) -> Floats:
    """What the tower reads of `tiles`: float32 [tiles, 3, size, size] from -1 to 1, rounded to
    bfloat16 as upstream's processor does, whatever the model computes in."""
    return np.ascontiguousarray(_VALUES[tiles].transpose(0, 3, 1, 2))


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _values() -> Floats:
    half = np.float32(0.5)
    exact = (np.arange(256, dtype=np.float32) / np.float32(255) - half) / half
    bits = exact.view(np.uint32)
    # To the nearest of those whose lower 16 bits are 0, to an even one where two are as near.
    rounded = bits + ((bits >> 16) & 1) + np.uint32(0x7FFF)
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


_VALUES = _values()
