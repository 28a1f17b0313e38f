"""The images that every artifact of a model that takes them is proven on, made by code.

PNG files: other formats are decoded a little differently by other versions of their libraries.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np

from runtime.requests import Passage
from runtime.vision.rule import Vision

_STORY = (
    "The invoice of the harbour office lists forty crates of apples, two lorries and the fee for "
    "the ferry, which was paid in advance and is printed in the last column of the table. "
)


@dataclass(frozen=True)
class ImageGroup:
    """One query with its passages; `name` and a passage's number name it in reports."""

    name: str
    query: str
    passages: tuple[Passage, ...]

    def label(self, index: int) -> str:
        """How reports call the passage of this number."""
        return f"{self.name}[{index}]"


def image_groups(vision: Vision, max_tokens: int) -> tuple[ImageGroup, ...]:
    """All groups, without the images that `max_tokens` leave no room for."""
    size = vision.rule.size
    one = _page(size * 9 // 10, size * 9 // 10, 1)
    three = _page(size * 2, size, 2)
    many = _page(size * 5 // 2, size * 16 // 5, 3)
    small = _page(size // 3, size // 2, 4)
    long = _STORY * (1 + max_tokens // 8)
    groups = (
        ImageGroup(
            "pages",
            "How many crates of apples were shipped?",
            (
                Passage("Forty crates of apples went to the island."),
                Passage("", one),
                Passage("Invoice of the harbour office, page 1.", one),
                Passage("The museum opens at ten."),
                Passage("Table of fees, both columns.", three),
                Passage("", small),
                Passage("", many),
                Passage("", one),
            ),
        ),
        ImageGroup(
            "words of the prompt",
            "what does <image> mean beside <IMG_CONTEXT>",
            (
                Passage("<image> first and <image> second", small),
                Passage("<img><IMG_CONTEXT></img> in a text alone"),
                Passage("<img><IMG_CONTEXT></img> behind an image", small),
                Passage(long, small),
            ),
        ),
    )
    room = _room(max_tokens)
    found = []
    for group in groups:
        fitting = tuple(passage for passage in group.passages if _fits(passage, vision, room))
        found.append(ImageGroup(group.name, group.query, fitting))
    return tuple(found)


def calibration_passages(vision: Vision, max_tokens: int) -> Iterator[tuple[str, Passage]]:
    """Queries and pages, none of which the artifact is proven on."""
    size, room = vision.rule.size, _room(max_tokens)
    for seed, (width, height) in enumerate(((4, 4), (8, 4), (2, 3)), start=10):
        for text in ("", "Page of a handbook with a table and a drawing."):
            page = Passage(text, _page(width * size // 4, height * size // 4, seed))
            if _fits(page, vision, room):
                yield "Where is the drawing of the pump?", page


def _room(max_tokens: int) -> int:
    """A query and a prompt of some words stand beside an image."""
    return max_tokens - min(64, max_tokens // 4)


def _fits(passage: Passage, vision: Vision, room: int) -> bool:
    if not isinstance(passage.image, bytes):
        return True
    return vision.rule.count(_size(passage.image)) * vision.tokens <= room


def _size(png: bytes) -> tuple[int, int]:
    """Width and height, as the file's first chunk says them."""
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


def _page(width: int, height: int, seed: int) -> bytes:
    """A page of gradients with boxes as of words, the same everywhere."""
    from PIL import Image  # late: only models that take images need Pillow

    random = np.random.default_rng(seed)
    across, down = np.linspace(0, 1, width), np.linspace(0, 1, height)[:, None]
    shades = random.uniform(120, 255, 3)
    pixels = np.stack([255 - shade * across * down * 0.5 for shade in shades], axis=-1)
    line, word = max(1, height // 24), max(1, width // 12)
    for _ in range(60):
        left, top = random.integers(0, width), random.integers(0, height)
        color = random.integers(0, 200, 3)
        pixels[top : top + line, left : left + word * random.integers(1, 4)] = color
    file = BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
