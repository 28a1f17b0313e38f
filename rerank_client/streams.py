"""Network streams that keep to the budget of the exchange that runs.

httpcore's timeouts bound one wait each: a server that sends a byte now and then never meets them.
These stand between httpcore and the network and give each wait what is left of the whole limit.
Each backend opens the streams of one connection and remembers the last one, so that it can be
closed from outside.
"""

import socket
import ssl
from contextlib import suppress
from typing import Any

import httpcore

from rerank_client.budget import Budget, running_budget

# A send that moves some bytes starts its timeout anew; so many are moved whole or not at all.
_PIECE_BYTES = 16 << 10
# What a read brought is parsed at once, chunk by chunk; then the event loop turns.
_READ_BYTES = 8 << 10
# Under asyncio and trio.
_NETWORK = httpcore.AnyIOBackend()


class Stream(httpcore.NetworkStream):
    """A connection of the blocking client. Closes itself when nothing refers to it any more."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner
        self._socket: socket.socket = inner.get_extra_info("socket")

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        budget = running_budget()
        return budget.count(self._inner.read(max_bytes, budget.seconds(timeout)))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        budget = running_budget()
        for start in range(0, len(buffer), _PIECE_BYTES):
            self._inner.write(buffer[start : start + _PIECE_BYTES], budget.seconds(timeout))

    def close(self) -> None:
        self._inner.close()

    __del__ = close

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        seconds = running_budget().seconds(timeout)
        # The handshake takes the socket out of what is known here.
        with self._socket.dup() as self._socket:
            self._inner = self._inner.start_tls(ssl_context, server_hostname, seconds)
            self._socket = self._inner.get_extra_info("socket")
        return self

    def end(self) -> None:
        """Have whatever waits for it, in any thread, fail. It is still to be closed."""
        with suppress(OSError):  # it has ended already
            # Not that of ssl.SSLSocket, after which bytes would go out in plain.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class Backend(httpcore.NetworkBackend):
    """Opens what one connection of the blocking client needs."""

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()
        self._stream: Stream | None = None
        self._ended = False

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> Stream:
        """Nothing can end the look-up of a name early: its time is only counted."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        share = Budget(running_budget().seconds(timeout), 0)
        # One by one: the standard library gives each address of a name the whole timeout.
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for place, (*_, address) in enumerate(found):
            numeric, _ = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
            try:
                seconds = share.seconds() / (len(found) - place)
                self._stream = Stream(
                    self._inner.connect_tcp(numeric, port, seconds, local_address, socket_options)
                )
            except Exception as error:
                failure = error
                continue
            if self._ended:
                raise httpcore.ConnectError("the client was closed")
            return self._stream
        raise failure

    def end(self) -> None:
        """As Stream.end, of one that is being opened as well."""
        self._ended = True
        if self._stream is not None:
            self._stream.end()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


class AsyncStream(httpcore.AsyncNetworkStream):
    """A connection of the client for asyncio and trio."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        budget, most_bytes = running_budget(), min(max_bytes, _READ_BYTES)
        data = await self._inner.read(most_bytes, budget.seconds(timeout))
        await _NETWORK.sleep(0)  # under TLS several reads have their bytes at hand
        return budget.count(data)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._inner.write(buffer, running_budget().seconds(timeout))

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        seconds = running_budget().seconds(timeout)
        return AsyncStream(await self._inner.start_tls(ssl_context, server_hostname, seconds))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class AsyncBackend(httpcore.AsyncNetworkBackend):
    """Opens what one connection of the client for asyncio and trio needs."""

    def __init__(self) -> None:
        self._stream: AsyncStream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> AsyncStream:
        seconds = running_budget().seconds(timeout)
        self._stream = AsyncStream(
            await _NETWORK.connect_tcp(host, port, seconds, local_address, socket_options)
        )
        return self._stream

    async def aclose(self) -> None:
        """Of TLS too: what is under it is closed, without a farewell."""
        if self._stream is not None:
            await self._stream.aclose()
