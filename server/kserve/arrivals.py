"""Messages that are on their way: a few at a time, and slow ones give way to those that wait.

gRPC takes a message that is read whole, up to the limit of one, before anybody learns how long it
is. One that is not read yet keeps to its window of 64 KiB.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, TypeAlias

import grpc.aio

from server.errors import BodyTooSlow, ClientDisconnected

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

# One that has come is copied in the event loop, in a twentieth of a second at the default limit.
_MOST_ARRIVING = 8
# What a message may take to arrive while others wait for its place all the time.
_SLOW_S = 1.0


class Arrivals:
    """Used in one event loop; a message may take `slow_s` to arrive while others wait."""

    def __init__(self, slow_s: float | None = None) -> None:
        self._slow_s = slow_s
        self._places = asyncio.Semaphore(_MOST_ARRIVING)
        self._waiting = 0
        # The messages that are being read, oldest first: when that began, and its time limit.
        self._arriving: dict[asyncio.Timeout, float] = {}
        # While others wait: since when, and what looks for slow ones.
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, context: Context, deadline: float) -> bytes:
        """The message of a call, until `deadline` of the monotonic clock. Raises BodyTooSlow, or
        ClientDisconnected when none comes."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, deadline - began)) as limit, self._place(limit):
                message = await context.read()
        except TimeoutError:
            raise BodyTooSlow(time.monotonic() - began) from None
        if not isinstance(message, bytes):  # the end of the stream
            raise ClientDisconnected
        return message

    def _look(self) -> None:
        """End as many messages as others wait, the oldest first, that have been coming for too long
        in which others waited; and look again when the next one has."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            self._since = None
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._since = now if self._since is None else self._since
        slow_s = _SLOW_S if self._slow_s is None else self._slow_s
        for limit, began in islice(self._arriving.items(), self._waiting):
            end = max(began, self._since) + slow_s
            if end > now:
                self._timer = loop.call_at(end, self._look)
                return
            if not limit.expired():
                limit.reschedule(now)

    @asynccontextmanager
    async def _place(self, limit: asyncio.Timeout) -> AsyncIterator[None]:
        """A place among the messages that are read; `limit` ends early where others wait."""
        if self._places.locked():
            self._waiting += 1
            self._look()
        try:
            await self._places.acquire()
        except asyncio.CancelledError:
            self._count_one_less()
            raise
        self._arriving[limit] = asyncio.get_running_loop().time()
        self._look()
        try:
            yield
        finally:
            del self._arriving[limit]
            self._count_one_less()
            self._places.release()

    def _count_one_less(self) -> None:
        """One that waits, if any does, has its place now though it does not know yet; or one that
        waited has gone, and passes on the place that it may have been given."""
        self._waiting = max(0, self._waiting - 1)
        self._look()
