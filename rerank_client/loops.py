"""The connections of the client for asyncio and trio: each event loop has its own.

A connection belongs to the event loop that opened it, and must be closed there. An asynchronous
generator does that: when an event loop ends, it closes generators that are still suspended
(`shutdown_asyncgens`, called by `asyncio.run`; trio does the same), and asyncio also closes one as
soon as nothing refers to it.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, NamedTuple

import httpcore

from rerank_client.connections import MAX_IDLE, Closable
from rerank_client.network import Network
from rerank_client.streams import AsyncBackend

# With more loops at once, the oldest loop's connections are dropped and reopened on demand.
MAX_LOOPS = 64


class Connection:
    """A connection for one exchange at a time. One pool for several tasks would not survive
    cancellation: it waits for connections that no task uses."""

    def __init__(self, network: Network) -> None:
        self.backend = AsyncBackend()
        self.http = httpcore.AsyncConnectionPool(
            network.certificates, network.proxy, max_connections=1, network_backend=self.backend
        )


class Pool:
    """The connections of one event loop."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._closed = False

    def take(self) -> Connection:
        """Take an idle connection; give it back."""
        connection = self._idle.pop() if self._idle else Connection(self._network)
        self._busy.add(connection)
        return connection

    async def give_back(self, connection: Connection, *, complete: bool) -> None:
        """Return a connection. `complete`: the exchange was read to its end."""
        self._busy.discard(connection)
        if complete and not self._closed and len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            await connection.backend.aclose()

    async def aclose(self) -> None:
        """Close all. Calls still running in the loop fail."""
        self._closed = True
        for connection in (*self._idle, *self._busy):
            await connection.backend.aclose()
        self._idle.clear()


class LoopPool(NamedTuple):
    """The pool is closed with its `lifetime`; it has no reference to it."""

    pool: Pool
    lifetime: AsyncGenerator[None, None]
    process: int


class LoopConnections(Closable):
    """As Connections, for event loops: one after another, or concurrently in many threads."""

    def __init__(self, network: Network) -> None:
        self._network = network
        # No lock: only its own loop adds an entry, and removing one twice is harmless.
        self._pools: dict[object, LoopPool] = {}

    async def here(self) -> LoopPool:
        """The pool of the running loop; keep a reference in use. Raises like `require_open`."""
        self.require_open()
        loop = _running_loop()
        own = self._pools.get(loop)
        if own is None:
            pool = Pool(self._network)
            own = LoopPool(pool, _lifetime(self._pools, loop, pool), os.getpid())
            await anext(own.lifetime)
            self._pools[loop] = own
            self._release_surplus()
        return own

    async def aclose(self) -> None:
        """Close the pools of this loop and of loops that are not running. A loop that runs
        elsewhere closes its own when its calls are done; trio, when it ends."""
        self.closed = True
        here = self._pools.pop(_running_loop(), None)
        for loop in list(self._pools):
            self._release(loop)
        if here is not None:
            await here.lifetime.aclose()

    def _release_surplus(self) -> None:
        loops = list(self._pools)
        for loop in loops:
            if isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed():
                self._release(loop)
        for loop in loops[:-MAX_LOOPS]:
            self._release(loop)

    def _release(self, loop: object) -> None:
        own = self._pools.get(loop)
        # After a fork the parent goes on using its loops, whose selectors are shared with it.
        if isinstance(loop, asyncio.AbstractEventLoop) and own and own.process == os.getpid():
            self._pools.pop(loop, None)
            if not loop.is_running():
                _close_from_outside(loop, own)


async def _lifetime(
    pools: dict[object, LoopPool], loop: object, pool: Pool
) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        current = pools.get(loop)
        if current is not None and current.pool is pool:
            pools.pop(loop, None)
        await pool.aclose()


def _running_loop() -> object:
    # Code under trio has imported it; this distribution does not depend on it.
    trio = sys.modules.get("trio")
    if trio is not None:
        with suppress(RuntimeError):
            token: object = trio.lowlevel.current_trio_token()
            return token
    return asyncio.get_running_loop()


def _close_from_outside(loop: asyncio.AbstractEventLoop, own: LoopPool) -> None:
    """Close the connections of a loop that is not running and may already be closed.

    A transport schedules the last step of its closing on its loop. That step is done here at once,
    and nothing else that is scheduled on the loop.
    """
    give_to_loop = loop.call_soon

    def call_soon(callback: Any, *arguments: Any, context: Any = None) -> Any:
        if isinstance(getattr(callback, "__self__", None), asyncio.BaseTransport):
            return callback(*arguments)
        return None if loop.is_closed() else give_to_loop(callback, *arguments, context=context)

    with suppress(Exception):
        loop.call_soon = call_soon  # type: ignore[assignment, method-assign]
        try:
            closing = own.lifetime.aclose().__await__()
            # Driven by hand, because nothing in it waits: every yield can be resumed at once.
            while True:
                next(closing)
        finally:
            del loop.call_soon
