"""A stand-in for the engine of a vision tower, and requests of images."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from runtime.errors import (
    TextPlace,
)
from runtime.requests import Passage, RankRequest, images_of
from runtime.shapes import Shape, ShapeRange
from runtime.vision.decoding import open_image
from runtime.vision.tiling import cut, pixel_values
from runtime.vision.tower import Tower
from tests.tiny_vision import TOKENS, png
from tests.vision_rules import TINY

ONE, THREE, FIVE = png(90, 90), png(200, 100), png(150, 150)
Make = Callable[..., Tower]


class Engine:
    """Each embedding is the mean of the tile's pixels; `calls` are the tiles of each call."""

    name, version, device, lanes = "mean", "", "cpu", 1
    shapes: tuple[ShapeRange, ...] = ()
    input_names: Sequence[str] = ["pixel_values"]
    output_names: Sequence[str] = ["image_embeds"]

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.closed = 0
        self.tokens = TOKENS
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def shape_for(self, rows: int, tokens: int) -> Shape:
        return self.shapes[0].padded(rows, tokens) if self.shapes else (rows, tokens)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        self.entered.set()
        self.gate.wait()
        pixels = inputs["pixel_values"]
        self.calls.append(len(pixels))
        means = pixels.mean(axis=(1, 2, 3))[:, None, None]
        return {"image_embeds": np.broadcast_to(means, (len(pixels), self.tokens, 64))}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Calls wait until the block ends, or until the gate is set in it."""
        self.gate.clear()
        try:
            yield
        finally:
            self.gate.set()

    def close(self) -> None:
        self.closed += 1


def seeing_request(*images: bytes | None, deadline: float | None = None) -> RankRequest:
    passages = ["text" if image is None else Passage(image=image) for image in images]
    return RankRequest("query", passages, deadline=deadline)


def embed(tower: Tower, *images: bytes | None, deadline: float | None = None) -> list[Any]:
    with tower.embedded(seeing_request(*images, deadline=deadline)) as seen:
        return images_of(seen)


def mean(data: bytes) -> np.ndarray:
    tiles = pixel_values(cut(open_image(data, TextPlace("")).decode(), TINY))
    return tiles.mean(axis=(1, 2, 3))


async def entered(tower: Tower, image: bytes, deadline: float | None) -> None:
    async with tower.embedded_async(seeing_request(image, deadline=deadline)):
        pass
