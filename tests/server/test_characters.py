"""What texts take in memory is measured before they are decoded, in turns."""

import asyncio
import sys

import pytest

from server import characters
from server.characters import wider_bytes
from server.time_slices import SLICE_BYTES, TimeSlices

WORD, LONG = "word ", SLICE_BYTES // 2
TEXTS = {
    "nothing": ("", 1),
    "ASCII": (WORD * LONG, 1),
    "Latin-1": ("é" * LONG, 1),
    "two bytes wide": ("道" * LONG, 2),
    "wide": ("😀" * LONG, 4),
    "one letter": (WORD * LONG + "ā", 2),
    "one emoji": (WORD * LONG + "😀" + WORD, 4),
    "one emoji first": ("😀" + WORD * LONG, 4),
}


def wider(*texts: str) -> int:
    return asyncio.run(wider_bytes((memoryview(text.encode()) for text in texts), TimeSlices()))


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_as_wide_as_its_widest_character(name: str) -> None:
    text, width = TEXTS[name]
    assert wider(text) == max(0, len(text) * width - len(text.encode()))
    assert 0 <= sys.getsizeof(text) - len(text) * width < 100  # as Python has it


def test_one_wide_text_widens_no_other() -> None:
    assert wider("a" * 1000, "😀", "b" * 1000) == 0
    assert wider("a" * 1000 + "😀", "b" * 1000) == 4 * 1001 - 1004


@pytest.mark.parametrize("texts", [[b"x" * 8 * SLICE_BYTES], [b"x"] * 2048])
def test_others_run_between_time_slices(
    texts: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between slices of one text, and between many texts."""
    monkeypatch.setattr(characters, "_TEXT_COST", SLICE_BYTES // 256)
    taken = 0

    class Counted(TimeSlices):
        async def wait(self) -> None:
            nonlocal taken
            taken += 1
            await super().wait()

    asyncio.run(wider_bytes(map(memoryview, texts), Counted()))
    assert taken == 7
