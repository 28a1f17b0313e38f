"""Work that is done a slice at a time, so that the event loop goes on between any two slices."""

import asyncio
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary

# So much of a body is looked at in one turn, and a larger one is decoded in a turn of its own. A
# slice takes 1 ms, 6 where all are escapes.
SLICE_BYTES = 1 << 18
# Decoding the largest takes 200 ms and more. Iterations of the event loop before each of those, in
# which an ordinary request that came meanwhile is read, taken up and answered.
_BETWEEN = 8


class TimeSlices:
    """A queue: one slice in each iteration of the event loop, however many wait."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def enqueue(self, one_slice: Callable[[], None]) -> None:
        """Have it called in its turn, once."""
        self._waiting.append(one_slice)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._next)

    async def wait(self) -> None:
        """Return in a turn, which lasts until the caller awaits something."""
        turn = asyncio.get_running_loop().create_future()
        self.enqueue(lambda: None if turn.done() else turn.set_result(None))
        await turn

    async def before(self, size: int) -> None:
        """Wait for a turn before a step over `size` bytes of a body that nothing interrupts, some
        iterations behind the one before; a small one has none."""
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


def _nothing() -> None:
    """A turn in which others go on."""


_TIME_SLICES: WeakKeyDictionary[asyncio.AbstractEventLoop, TimeSlices] = WeakKeyDictionary()


def time_slices_of(loop: asyncio.AbstractEventLoop) -> TimeSlices:
    """The queue of this loop's connections."""
    return _TIME_SLICES.setdefault(loop, TimeSlices())
