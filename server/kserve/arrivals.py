"""Reading gRPC messages: a few at a time, and slow ones are ended while others wait.

gRPC reads a message whole, up to the limit, before its length is known. An unread message takes
only its flow control window of 64 KiB.
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

# A received message is copied in the event loop, in up to 50 ms at the default limit.
_MOST_ARRIVING = 8
# How long a message may take to arrive while others wait all that time.
_SLOW_S = 1.0


class Arrivals:
    """Reads messages in one event loop; while others wait, a message may take `slow_s`."""

    def __init__(self, slow_s: float | None = None) -> None:
        self._slow_s = slow_s
        self._places = asyncio.Semaphore(_MOST_ARRIVING)
        self._waiting = 0
        # The timeouts of the messages being read, oldest first, and when each began.
        self._arriving: dict[asyncio.Timeout, float] = {}
        # While others wait: since when, and the timer that looks for slow messages.
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, context: Context, deadline: float) -> bytes:
        """Read the message of a call, until `deadline` of time.monotonic(). Raises BodyTooSlow, or
        ClientDisconnected at the end of the stream."""
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
        """End slow messages, the oldest first, as many as others wait; schedule the next check."""
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
        """Hold one of the places for reading. While others wait, `limit` may be brought forward."""
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
        """Count one waiter less: it gets a place now, or it was cancelled and passes one on."""
        self._waiting = max(0, self._waiting - 1)
        self._look()
