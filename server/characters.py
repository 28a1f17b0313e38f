"""The memory of decoded texts: Python stores every character of a text as wide as its widest.

With one emoji in a text, each of its letters takes four bytes.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from server.time_slices import SLICE_BYTES, TimeSlices

Bytes = npt.NDArray[np.uint8]

WIDEST = 4
_NOT_ASCII = 0x80
# Lead bytes from which a text takes 2 or 4 bytes a character.
_TWO_BYTES_WIDE = 0xC4
_FOUR_BYTES_WIDE = 0xF0
# The cost of starting on another text, in bytes of a long text.
_TEXT_COST = 1 << 10


class Characters:
    """Counts characters, and the bytes that the widest one takes."""

    def __init__(self) -> None:
        self.count = 0
        self.width = 1

    @property
    def size(self) -> int:
        """The bytes that they take as one text."""
        return self.count * self.width

    def take(self, raw: Bytes) -> None:
        """Count the characters that begin in `raw`, which may be cut anywhere."""
        self.count += raw.size
        widest = int(raw.max(initial=0))
        if widest >= _NOT_ASCII:
            self.count -= int(np.count_nonzero(raw & 0xC0 == 0x80))  # continuation bytes
        if widest >= _FOUR_BYTES_WIDE:
            self.widen(WIDEST)
        elif widest >= _TWO_BYTES_WIDE:
            self.widen(2)

    def widen(self, width: int) -> None:
        """Raise the width to at least `width` bytes."""
        self.width = max(self.width, width)


async def wider_bytes(texts: Iterable[memoryview], slices: TimeSlices) -> int:
    """The extra bytes that the texts take when decoded, compared with UTF-8; a text that takes less
    counts 0. Reads one slice in each time slice."""
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
