"""Network streams that keep to the budget of the exchange that runs.

httpx's timeouts bound one wait each: a server that sends a byte now and then never meets them.
These stand between httpx and the network (httpcore calls that a network backend) and give each
wait what is left of the whole limit. They repeat httpcore's interface by its names alone, because
this distribution names no dependency but httpx.
"""

import socket
import ssl
from typing import Any

import httpx

from rerank_client.budget import running_budget

# A send that moves some bytes starts its timeout anew; so many are moved whole or not at all.
_PIECE_BYTES = 16 << 10


class Stream:
    """A connection of the blocking client. Closes itself when nothing refers to it any more."""

    def __init__(self, inner: Any, under: "Stream | None" = None) -> None:
        self._inner = inner
        self._under = under  # kept: TLS within TLS still sends through it

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        budget = running_budget()
        return budget.count(self._inner.read(max_bytes, budget.seconds(timeout)))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        budget, view = running_budget(), memoryview(buffer)
        for start in range(0, len(view), _PIECE_BYTES):
            self._inner.write(view[start : start + _PIECE_BYTES], budget.seconds(timeout))

    def close(self) -> None:
        self._inner.close()

    __del__ = close

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> "Stream":
        seconds = running_budget().seconds(timeout)
        return Stream(self._inner.start_tls(ssl_context, server_hostname, seconds), self)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class Backend:
    """Opens the connections of the blocking client; `inner` is httpcore's own."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, **options: Any
    ) -> Stream:
        """Nothing can end the look-up of a name early: its time is only counted."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        # One by one: the standard library gives each address of a name the whole timeout.
        failure: Exception = httpx.ConnectError(f"{host} has no address")
        for *_, address in found:
            numeric, _ = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
            seconds = running_budget().seconds(timeout)
            try:
                return Stream(self._inner.connect_tcp(numeric, port, seconds, **options))
            except Exception as error:
                failure = error
        raise failure


class AsyncStream:
    """A connection of the client for asyncio and trio."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        budget = running_budget()
        return budget.count(await self._inner.read(max_bytes, budget.seconds(timeout)))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._inner.write(buffer, running_budget().seconds(timeout))

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> "AsyncStream":
        seconds = running_budget().seconds(timeout)
        return AsyncStream(await self._inner.start_tls(ssl_context, server_hostname, seconds))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class AsyncBackend:
    """Opens the connections of the client for asyncio and trio; `inner` is httpcore's own."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, **options: Any
    ) -> AsyncStream:
        seconds = running_budget().seconds(timeout)
        return AsyncStream(await self._inner.connect_tcp(host, port, seconds, **options))
