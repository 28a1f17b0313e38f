"""Connections without sockets: bytes are handed to the protocol, and what it writes is kept."""

import asyncio
from collections.abc import Callable
from typing import Any

import uvicorn
from litestar.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from server.protocol import BoundedProtocol

# More iterations of the event loop than anything here takes.
_MANY = 100_000


class Wire(asyncio.Transport):
    """One end of a connection; `written` is what came out of it."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        config = uvicorn.Config(app, interface="asgi3", ws="none", lifespan="off", log_config=None)
        self.written = b""
        self.closed = self.ended = self.paused = False
        self.protocol = BoundedProtocol(config, ServerState(), {}, most_connections=4)
        self.protocol.connection_made(self)

    @property
    def events(self) -> int:
        """How many were parsed."""
        return self.protocol.conn.events

    def send(self, data: bytes) -> None:
        """As a client does, in reads of what an event loop reads at once."""
        for begin in range(0, len(data), 1 << 18):
            if not self.closed:
                self.protocol.data_received(data[begin : begin + (1 << 18)])

    async def until(self, true: Callable[[], bool]) -> None:
        """Let the event loop run until then."""
        for _ in range(_MANY):
            if true():
                return
            await asyncio.sleep(0)
        raise AssertionError("it does not happen")

    async def answered(self) -> int:
        """The status, when head and body have been written."""
        await self.until(lambda: b"\r\n\r\n" in self.written)
        return int(self.written.split()[1])

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that tells which path and Host it was asked for, and how long the body was."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return
        size, more = size + len(message["body"]), message["more_body"]
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    await _answer(send, 200, b" ".join([scope["path"].encode(), *hosts, str(size).encode()]))


async def deny(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that looks at no body."""
    await _answer(send, 401, b"no")


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
