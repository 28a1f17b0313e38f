"""Which grid an image gets, its tiles, and what the tower reads of them."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from runtime.vision.rule import TileRule
from runtime.vision.tiling import cut, pixel_values
from tests.vision_rules import FOUR, REAL, SIX, TINY


@pytest.mark.parametrize(
    ("size", "grid", "tiles"),
    [
        ((1275, 1650), (2, 3), 7),
        ((1650, 1275), (3, 2), 7),
        ((1920, 1080), (3, 2), 7),
        ((640, 480), (3, 2), 7),
        ((8000, 6000), (3, 2), 7),
        ((1024, 512), (2, 1), 3),
        ((300, 90), (3, 1), 4),
        ((660, 660), (1, 1), 1),
        ((661, 661), (2, 2), 5),
        ((1713, 1713), (2, 2), 5),
        ((4000, 4000), (2, 2), 5),
        # Products of doubles decide these few: exact fractions would say (2, 2).
        ((1720, 1720), (2, 3), 7),
        ((2442, 2442), (2, 3), 7),
        ((2904, 2904), (2, 3), 7),
        ((5000, 10), (6, 1), 7),
        ((10, 5000), (1, 6), 7),
        ((1, 1), (1, 1), 1),
    ],
)
def test_an_image_gets_upstream_s_grid(
    size: tuple[int, int], grid: tuple[int, int], tiles: int
) -> None:
    assert (REAL.grid(size), REAL.count(size)) == (grid, tiles)


def test_of_grids_that_score_alike_the_first_is_taken() -> None:
    size = (1720, 1720)
    turned = TileRule(size=512, grids=SIX[::-1], thumbnail=True)
    assert (REAL.grid(size), turned.grid(size)) == ((2, 3), (3, 2))


def test_the_most_tiles_of_a_rule() -> None:
    assert (REAL.most, TINY.most) == (7, 5)
    assert TileRule(size=512, grids=FOUR, thumbnail=False).most == 4
    assert TileRule(size=512, grids=[(1, 1)], thumbnail=True).most == 1


def image(width: int, height: int) -> Image.Image:
    """Smooth, and everywhere different."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x % 256, y % 256, (x + y) % 256], -1).astype(np.uint8))


def test_tiles_go_row_by_row_and_the_thumbnail_is_last() -> None:
    whole = image(200, 300)
    rule = TileRule(size=96, grids=[(2, 3)], thumbnail=True)
    tiles = cut(whole, rule)
    resized = np.asarray(whole.resize((192, 288), Image.Resampling.BICUBIC))
    assert tiles.shape == (7, 96, 96, 3)
    assert np.array_equal(tiles[1], resized[:96, 96:])
    assert np.array_equal(tiles[4], resized[192:, :96])
    assert np.array_equal(tiles[6], np.asarray(whole.resize((96, 96), Image.Resampling.BICUBIC)))


def test_an_image_of_one_tile_has_no_thumbnail() -> None:
    assert len(cut(image(50, 50), TINY)) == 1


def test_an_image_of_the_size_of_a_tile_is_left_alone() -> None:
    whole = image(96, 96)
    assert np.array_equal(cut(whole, TINY)[0], np.asarray(whole))


def test_pixel_values_are_upstream_s_bit_for_bit() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    told = (torch.from_numpy(every).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    wanted = told.to(torch.bfloat16).float().contiguous().numpy()
    found = pixel_values(every)
    assert found.flags.c_contiguous
    assert hashlib.sha256(found).digest() == hashlib.sha256(wanted).digest()
    assert len(np.unique(found)) == 256
    assert np.array_equal(found.astype(np.float16).astype(np.float32), found)
