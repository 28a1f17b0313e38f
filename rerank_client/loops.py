"""The connections of the client for asyncio and trio: each event loop has its own.

A connection belongs to the event loop that opened it, and has to be closed there. An asynchronous
generator sees to that: an event loop closes those that are still suspended in it when it ends
(`shutdown_asyncgens`, which `asyncio.run` calls; trio does it as well), and asyncio's one at once
when nothing refers to it any more.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, NamedTuple

import httpcore

from rerank_client.connections import MOST_IDLE
from rerank_client.network import Network
from rerank_client.streams import AsyncBackend

# More loops than that at once, and the one that came first opens its connections anew.
MOST_LOOPS = 64


class Connection:
    """One, for one exchange at a time. A pool that several tasks share does not survive that they
    are cancelled: it waits for connections that nobody uses."""

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
        """One that nobody uses; to be given back."""
        connection = self._idle.pop() if self._idle else Connection(self._network)
        self._busy.add(connection)
        return connection

    async def give_back(self, connection: Connection, *, whole: bool) -> None:
        """`whole`: nothing of the exchange is still to come."""
        self._busy.discard(connection)
        if whole and not self._closed and len(self._idle) < MOST_IDLE:
            self._idle.append(connection)
        else:
            await connection.backend.aclose()

    async def aclose(self) -> None:
        """Calls that still run in the loop end with an error."""
        self._closed = True
        for connection in (*self._idle, *self._busy):
            await connection.backend.aclose()
        self._idle.clear()


class LoopPool(NamedTuple):
    """The connections are closed when `lifetime` is, of which they know nothing."""

    pool: Pool
    lifetime: AsyncGenerator[None, None]
    process: int


class LoopConnections:
    """As Connections, for event loops: one after the other, or at once in many threads."""

    def __init__(self, network: Network) -> None:
        self._network = network
        # Without a lock: only its own loop adds an entry, and removing one twice does no harm.
        self._pools: dict[object, LoopPool] = {}
        self.closed = False

    def require_open(self) -> None:
        """Raises RuntimeError when `aclose` was called."""
        if self.closed:
            raise RuntimeError("this client is closed; make another, or close it later")

    async def here(self) -> LoopPool:
        """That of the loop that runs; held while it is used. Raises as `require_open` does."""
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
        """Those of this loop, and of loops that do not run. One that runs elsewhere closes its own
        when the calls in it are done; trio, when it ends."""
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
        for loop in loops[:-MOST_LOOPS]:
            self._release(loop)

    def _release(self, loop: object) -> None:
        own = self._pools.get(loop)
        # A parent process goes on with its loops, whose selectors are shared with it.
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
    # Whoever runs under trio has imported it; this distribution does not depend on it.
    trio = sys.modules.get("trio")
    if trio is not None:
        with suppress(RuntimeError):
            token: object = trio.lowlevel.current_trio_token()
            return token
    return asyncio.get_running_loop()


def _close_from_outside(loop: asyncio.AbstractEventLoop, own: LoopPool) -> None:
    """Close the connections of a loop that does not run, and may have been closed before them.

    A transport leaves the last step of its closing to its loop. That step is done here at once,
    and nothing else of what the loop is given.
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
            # By hand, because nothing in it waits: what it yields is that it can be gone on with.
            while True:
                next(closing)
        finally:
            del loop.call_soon
