"""Work that is done a slice at a time, so that the event loop goes on between any two slices."""

import asyncio
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary


class Turns:
    """A queue: one slice in each iteration of the event loop, however many wait."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def enqueue(self, one_slice: Callable[[], None]) -> None:
        """Have it called in its turn, once."""
        self._waiting.append(one_slice)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        try:
            self._waiting[0]()
        finally:
            self._waiting.popleft()
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._next)


_TURNS: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def turns_of(loop: asyncio.AbstractEventLoop) -> Turns:
    """The queue of this loop."""
    return _TURNS.setdefault(loop, Turns())
