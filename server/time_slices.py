"""Time slices for long work on the event loop, so that other requests run between two slices."""

import asyncio
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary

# A time slice scans so much of a body, and decodes so much of a larger one. A scan takes 1 ms, or 6
# if all characters are escapes.
SLICE_BYTES = 1 << 18
# Iterations of the event loop before each step over all of a large body, which may take 100 ms and
# more: enough to read, start and answer an ordinary request that arrived meanwhile.
_BETWEEN = 8


class TimeSlices:
    """A queue of callbacks: one runs in each iteration of the event loop, however many wait."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def enqueue(self, one_slice: Callable[[], None]) -> None:
        """Call `one_slice` once, in its time slice."""
        self._waiting.append(one_slice)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._next)

    async def wait(self) -> None:
        """Wait for a time slice, which lasts until the caller awaits something."""
        turn = asyncio.get_running_loop().create_future()
        self.enqueue(lambda: None if turn.done() else turn.set_result(None))
        await turn

    async def before(self, size: int) -> None:
        """Wait for a time slice before an uninterruptible step over `size` bytes of a body, some
        iterations after the previous one. A small step does not wait."""
        if size > SLICE_BYTES:
            for _ in range(_BETWEEN):
                self.enqueue(_nothing)
            await self.wait()

    def _next(self) -> None:
        try:
            self._waiting[0]()
        finally:
            self._waiting.popleft()
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._next)


class Pace:
    """Work in many steps, of which each may be small: every time slice has steps over at most
    SLICE_BYTES together. The first has them without waiting."""

    def __init__(self, slices: TimeSlices) -> None:
        self._slices = slices
        self._size = 0

    async def step(self, size: int) -> None:
        """Wait for the next time slice if this one has no room for a step over `size` bytes."""
        if self._size + size > SLICE_BYTES:
            self._size = 0
            await self._slices.wait()
        self._size += size


def _nothing() -> None:
    """An empty slice, in which other tasks run."""


_TIME_SLICES: WeakKeyDictionary[asyncio.AbstractEventLoop, TimeSlices] = WeakKeyDictionary()


def time_slices_of(loop: asyncio.AbstractEventLoop) -> TimeSlices:
    """The time slices that all connections of this loop share."""
    return _TIME_SLICES.setdefault(loop, TimeSlices())
