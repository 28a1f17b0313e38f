"""Network streams that enforce the budget of the current exchange.

httpcore's timeouts limit single waits: a server that sends a byte now and then never exceeds them.
These streams are between httpcore and the network and give each wait the remaining time of the
whole limit. Each backend opens the streams of one connection and remembers the last one, so that it
can be closed from outside.
"""

import socket
import ssl
from contextlib import suppress
from typing import Any

import httpcore

from rerank_client.budget import Budget, current_budget

# A send that moves some bytes restarts its timeout; a piece of this size moves as a whole.
_PIECE_BYTES = 16 << 10
# Between pieces of this size the asynchronous client looks for an answer.
_ASYNC_PIECE_BYTES = 256 << 10
# A read of this size is parsed at once; then the event loop runs other tasks.
_READ_BYTES = 8 << 10
# Under asyncio and trio.
_NETWORK = httpcore.AnyIOBackend()


class Stream(httpcore.NetworkStream):
    """A stream of the blocking client. Closes itself when nothing refers to it."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner
        self._socket: socket.socket = inner.get_extra_info("socket")

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        budget = current_budget()
        return budget.count(self._inner.read(max_bytes, budget.seconds(timeout)))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        budget = current_budget()
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
        seconds = current_budget().seconds(timeout)
        # The handshake replaces the socket of the inner stream.
        with self._socket.dup() as self._socket:
            self._inner = self._inner.start_tls(ssl_context, server_hostname, seconds)
            self._socket = self._inner.get_extra_info("socket")
        return self

    def end(self) -> None:
        """Make all waits for it fail, in any thread. It must still be closed."""
        with suppress(OSError):  # it has already ended
            # Not ssl.SSLSocket's shutdown, after which bytes would be sent unencrypted.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class Backend(httpcore.NetworkBackend):
    """Opens the streams of one connection of the blocking client."""

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
        """Open a stream. The look-up of a name cannot be interrupted: its time is only counted."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        share = Budget(current_budget().seconds(timeout), 0)
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
        """As Stream.end, also for a stream that is being opened."""
        self._ended = True
        if self._stream is not None:
            self._stream.end()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


class AsyncStream(httpcore.AsyncNetworkStream):
    """A stream of the client for asyncio and trio."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        # Received, but not read by httpcore yet.
        self._early = bytearray()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._early:
            data, self._early = bytes(self._early), bytearray()
            return data
        budget = current_budget()
        data = await self._receive(budget, max_bytes, timeout)
        await _NETWORK.sleep(0)  # under TLS several reads may return without waiting
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        budget = current_budget()
        for start in range(0, len(buffer), _ASYNC_PIECE_BYTES):
            if start:
                await self._receive_early(budget)
            piece = buffer[start : start + _ASYNC_PIECE_BYTES]
            await self._inner.write(piece, budget.seconds(timeout))

    async def _receive_early(self, budget: Budget) -> None:
        """Receive what the server says before it has the whole request: a refusal of its size would
        be lost when the server then closes the connection. Not under TLS, whose own messages look
        the same."""
        told = self._inner.get_extra_info
        if told("ssl_object") is None and told("is_readable"):
            with suppress(httpcore.ReadError):  # writing fails as well
                self._early += await self._receive(budget, _READ_BYTES)

    async def _receive(self, budget: Budget, max_bytes: int, timeout: float | None = None) -> bytes:
        limit = min(max_bytes, _READ_BYTES)
        return budget.count(await self._inner.read(limit, budget.seconds(timeout)))

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        seconds = current_budget().seconds(timeout)
        return AsyncStream(await self._inner.start_tls(ssl_context, server_hostname, seconds))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class AsyncBackend(httpcore.AsyncNetworkBackend):
    """Opens the streams of one connection of the client for asyncio and trio."""

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
        seconds = current_budget().seconds(timeout)
        self._stream = AsyncStream(
            await _NETWORK.connect_tcp(host, port, seconds, local_address, socket_options)
        )
        return self._stream

    async def aclose(self) -> None:
        """Close the stream under TLS too, without a closing handshake."""
        if self._stream is not None:
            await self._stream.aclose()
