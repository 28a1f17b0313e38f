"""HTTP framing: parse a connection's requests in slices, answer bad ones in JSON, and stop parsing
a body once its request is answered.

uvicorn 0.54 parses all received data at once, also the rest of a body that nobody wants any more,
and answers bytes that are not HTTP in plain text.
"""

import asyncio
from typing import Any

import h11
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.errors import Failure
from server.lingering import LingeringTransport
from server.nim_error import error_body
from server.parser import Parser
from server.time_slices import time_slices_of

_CLOSE = (b"connection", b"close")
# Parsing one event takes some 10 µs, and a body may come in chunks of one byte. So many events are
# parsed at once; the rest in time slices that all connections share.
_EVENTS_AT_ONCE = 64
_EVENTS_PER_SLICE = 256


class _Flow(FlowControl):
    """uvicorn's flow control, which resumes reading whenever a body is awaited; not while
    `paused`."""

    paused = False

    def resume_reading(self) -> None:
        if not self.paused:
            super().resume_reading()


class FramedProtocol(H11Protocol):
    """uvicorn's h11 protocol with our parser. An answer before the end of the request's body closes
    the connection, and the rest of that body is not parsed.

    h11 rather than uvicorn's faster httptools: Java's HTTP client offers an upgrade to HTTP/2 with
    every request; httptools then loses the body, h11 ignores the offer.
    """

    conn: Parser
    flow: _Flow
    transport: LingeringTransport

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = Parser()
        self.app = self._close_on_early_answer(self.app)
        # Received data that is not parsed yet, and whether it waits for a time slice.
        self._unparsed = b""
        self._in_slice = False
        # Whether the answer came before the end of its request: further data is dropped.
        self._closing_early = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wrap the transport, so that closing lingers."""
        closing = LingeringTransport(transport, self.loop, self._still_sending)  # type: ignore[arg-type]
        super().connection_made(closing)
        self.flow = _Flow(closing)

    def data_received(self, data: bytes) -> None:
        """Parse received data; a large amount waits for time slices."""
        if self._closing_early or self.transport.is_closing():
            self.transport.drop(len(data))
            return
        self._unparsed = self._unparsed + data if self._unparsed else data
        if not self._in_slice:
            self._allow(_EVENTS_AT_ONCE)
            self._parse()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up."""
        super().connection_lost(exc)
        self.transport.cancel_timer()

    def on_response_complete(self) -> None:
        """Go on with the next request, of which a part may have arrived."""
        self._allow(_EVENTS_AT_ONCE)
        super().on_response_complete()
        if not self.transport.is_closing() and not self._in_slice:
            self._parse()

    def on_parsed(self) -> None:
        """A hook, called after parsing."""

    def send_400_response(self, msg: str) -> None:
        """Answer a request that the parser refuses, with its reason instead of uvicorn's `msg`."""
        failure = self.conn.failure or Failure(400, msg)
        self.refuse(failure.status, failure.message)

    def refuse(self, status: int, message: str) -> None:
        """Answer with the NIM's error body and close the connection."""
        if self.transport.is_closing():
            return
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        self._closing_early = True
        body = error_body(Failure(status, message)).body
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            _CLOSE,
        ]
        events = (
            h11.Response(status_code=status, headers=headers),
            h11.Data(data=b"" if self.conn.method == b"HEAD" else body),
            h11.EndOfMessage(),
        )
        for event in events:
            self.transport.write(self.conn.send(event))
        if not self.is_idle():  # the application, which reads the body, sees a disconnect
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def is_idle(self) -> bool:
        """Whether this connection has no running request."""
        return self.cycle is None or self.cycle.response_complete or self.transport.is_closing()

    @property
    def has_partial_head(self) -> bool:
        """Whether a part of a request head has arrived, but not all."""
        awaited = self.conn.their_state is h11.IDLE and not self.transport.is_closing()
        return awaited and bool(self._unparsed or self.conn.trailing_data[0])

    def _should_upgrade(self) -> bool:
        """Ignore offers of another protocol, without uvicorn's warnings: Java's client makes one
        with every request."""
        return False

    def _allow(self, events: int) -> None:
        self.conn.until = self.conn.events + events

    def _may_parse(self) -> bool:
        return self.conn.events < self.conn.until and not self.transport.is_closing()

    def _parse(self) -> None:
        """Parse received data, up to the allowed number of events; the rest in later slices."""
        place = 0
        while (
            place < len(self._unparsed) and self._may_parse() and (size := self.conn.wanted_bytes)
        ):
            piece = self._unparsed[place : place + size]
            place += len(piece)
            super().data_received(piece)
        self._unparsed = self._unparsed[place:]
        if self.transport.is_closing():
            self.transport.drop(len(self._unparsed))
            self._unparsed = b""
        self._in_slice = self.conn.events >= self.conn.until and not self.transport.is_closing()
        if self._in_slice:
            time_slices_of(self.loop).enqueue(self._resume)
        self._update_reading()
        self.on_parsed()

    def _resume(self) -> None:
        self._in_slice = False
        if not self._closing_early and not self.transport.is_closing():
            self._allow(_EVENTS_PER_SLICE)
            self.handle_events()
            self._parse()

    def _update_reading(self) -> None:
        """Pause reading while data waits to be parsed or the application reads slowly."""
        self.flow.paused = self._in_slice
        if self._in_slice or self._unparsed:
            self.flow.pause_reading()
        elif self.cycle is None or len(self.cycle.body) <= HIGH_WATER_LIMIT:
            self.flow.resume_reading()

    def _still_sending(self) -> bool:
        """Whether the client may still be sending a body that nobody wants any more."""
        return self._closing_early or self.conn.their_state is h11.SEND_BODY

    def _close_on_early_answer(self, app: ASGIApp) -> ASGIApp:
        """`app`, with answers that come before the end of the body closing the connection."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            async def closing(message: Message) -> None:
                if message["type"] == "http.response.start" and self._still_sending():
                    self._closing_early = True
                    others = (field for field in message["headers"] if field[0] != _CLOSE[0])
                    message["headers"] = [*others, _CLOSE]
                await send(message)

            await app(scope, receive, closing)

        return answer
