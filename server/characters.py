"""What texts in UTF-8 take in memory: Python keeps every character of a text as wide as its widest.

One emoji makes four bytes of each letter of its text.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from server.time_slices import SLICE_BYTES, TimeSlices

Bytes = npt.NDArray[np.uint8]

WIDEST = 4
_NOT_ASCII = 0x80
# Lead bytes from which on a whole text is kept in 2 and 4 bytes a character.
_TWO_BYTES_WIDE = 0xC4
_FOUR_BYTES_WIDE = 0xF0
# What looking at one more text takes, in bytes of a long one.
_TEXT_COST = 1 << 10


class Characters:
    """How many there are in what was taken, and how many bytes the widest takes."""

    def __init__(self) -> None:
        self.count = 0
        self.width = 1

    @property
    def size(self) -> int:
        """The bytes that they take in one text."""
        return self.count * self.width

    def take(self, raw: Bytes) -> None:
        """Count those that begin in `raw`, which may be cut anywhere."""
        self.count += raw.size
        widest = int(raw.max(initial=0))
        if widest >= _NOT_ASCII:
            self.count -= int(np.count_nonzero(raw & 0xC0 == 0x80))  # continuation bytes
        if widest >= _FOUR_BYTES_WIDE:
            self.widen(WIDEST)
        elif widest >= _TWO_BYTES_WIDE:
            self.widen(2)

    def widen(self, width: int) -> None:
        """Let the widest take at least `width` bytes."""
        self.width = max(self.width, width)


async def wider_bytes(texts: Iterable[memoryview], slices: TimeSlices) -> int:
    """How many bytes more than in UTF-8 the texts take once they are decoded, 0 for those that take
    less. Reads slices in turns."""
    more = seen = 0
    for text in texts:
        characters = Characters()
        for begin in range(0, len(text), SLICE_BYTES):
            if seen >= SLICE_BYTES:
                seen = 0
                await slices.wait()
            part = bytes(text[begin : begin + SLICE_BYTES])
            if part.isascii():
                characters.count += len(part)
            else:
                characters.take(np.frombuffer(part, np.uint8))
            seen += len(part)
        more += max(0, characters.size - len(text))
        seen += _TEXT_COST
    return more
