"""The connections of the client for asyncio and trio: each event loop has its own.

A connection belongs to the event loop that opened it, and has to be closed there. An asynchronous
generator sees to that: an event loop closes those that are still suspended in it when it ends
(`shutdown_asyncgens`, which `asyncio.run` calls; trio does it as well), and asyncio's one at once
when nothing refers to it any more.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, NamedTuple

import httpx

from rerank_client.network import Network

# More loops than that at once, and the one that came first opens its connections anew.
MOST_LOOPS = 64


class LoopPool(NamedTuple):
    """Connections; they are closed when `lifetime` is."""

    http: httpx.AsyncHTTPTransport
    lifetime: AsyncGenerator[None, None]


class LoopConnections:
    """As Connections, for event loops: one after the other, or at once in many threads."""

    def __init__(self, network: Network) -> None:
        self._network = network
        # Without a lock: only its own loop adds an entry, and removing one twice does no harm.
        self._pools: dict[object, LoopPool] = {}
        self._closed = False

    def require_open(self) -> None:
        """Raises RuntimeError when `aclose` was called."""
        if self._closed:
            raise RuntimeError("this client is closed; make another, or close it later")

    async def pool(self) -> LoopPool:
        """That of the loop that runs; held while it is used. Raises as `require_open` does."""
        self.require_open()
        loop = _running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            http = self._network.async_pool()
            pool = LoopPool(http, _lifetime(self._pools, loop, http))
            await anext(pool.lifetime)
            self._pools[loop] = pool
            self._release_surplus()
        return pool

    async def aclose(self) -> None:
        """Those of this loop, and of loops that do not run. One that runs elsewhere closes its own
        when the calls in it are done; trio, when it ends."""
        self._closed = True
        here = self._pools.pop(_running_loop(), None)
        for loop in list(self._pools):
            self._release(loop)
        if here is not None:
            await here.lifetime.aclose()

    async def give_back(self, response: httpx.Response) -> None:
        """An answer of the pool that was read, or is not wanted."""
        await response.aclose()
        if self._closed:
            # It came after the pool was emptied.
            await response.extensions["network_stream"].aclose()

    def _release_surplus(self) -> None:
        loops = list(self._pools)
        for loop in loops:
            if isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed():
                self._release(loop)
        for loop in loops[:-MOST_LOOPS]:
            self._release(loop)

    def _release(self, loop: object) -> None:
        if isinstance(loop, asyncio.AbstractEventLoop):
            pool = self._pools.pop(loop, None)
            if pool is not None and not loop.is_running():
                _close_from_outside(loop, pool)


async def _lifetime(
    pools: dict[object, LoopPool], loop: object, http: httpx.AsyncHTTPTransport
) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        current = pools.get(loop)
        if current is not None and current.http is http:
            pools.pop(loop, None)
        await http.aclose()


def _running_loop() -> object:
    # Whoever runs under trio has imported it; this distribution does not depend on it.
    trio = sys.modules.get("trio")
    if trio is not None:
        with suppress(RuntimeError):
            token: object = trio.lowlevel.current_trio_token()
            return token
    return asyncio.get_running_loop()


def _close_from_outside(loop: asyncio.AbstractEventLoop, pool: LoopPool) -> None:
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
            closing = pool.lifetime.aclose().__await__()
            # By hand, because nothing in it waits: what it yields is that it can be gone on with.
            while True:
                next(closing)
        finally:
            del loop.call_soon
