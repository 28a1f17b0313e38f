"""Requests on a connection: parsed in slices, refused in JSON, and no further than their answer.

uvicorn 0.54 parses all that has come at once, a body to its end that nobody wants any more, and
answers bytes that are not HTTP in plain text.
"""

import asyncio
from typing import Any

import h11
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.errors import Failure
from server.lingering import LingeringTransport
from server.parser import Parser
from server.surfaces import nim
from server.time_slices import time_slices_of

_CLOSE = (b"connection", b"close")
# Parsing one event takes some 10 µs, and a body may come in chunks of one byte: so many are parsed
# as they come, the others in turns that all connections share.
_EVENTS_AT_ONCE = 64
_EVENTS_PER_SLICE = 256


class _Flow(FlowControl):
    """uvicorn's, which resumes reading whenever a body is awaited: not while `held`."""

    paused = False

    def resume_reading(self) -> None:
        if not self.paused:
            super().resume_reading()


class FramedProtocol(H11Protocol):
    """uvicorn's h11 protocol with our parser. An answer that is given before the request's body is
    whole ends the connection, and nothing more of that body is parsed.

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
        # What the parser has not been given yet, and whether it waits for its turn.
        self._unparsed = b""
        self._in_slice = False
        # Whether an answer was given before its request was whole: what still comes is dropped.
        self._closing_early = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        closing = LingeringTransport(transport, self.loop, self._still_sending)  # type: ignore[arg-type]
        super().connection_made(closing)
        self.flow = _Flow(closing)

    def data_received(self, data: bytes) -> None:
        """Parse what has come, or wait for this connection's turn where that is much."""
        if self._closing_early or self.transport.is_closing():
            self.transport.drop(len(data))
            return
        self._unparsed = self._unparsed + data if self._unparsed else data
        if not self._in_slice:
            self._allow(_EVENTS_AT_ONCE)
            self._parse()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        self.transport.cancel_timer()

    def on_response_complete(self) -> None:
        """Go on with the next request, of which a part may have come."""
        self._allow(_EVENTS_AT_ONCE)
        super().on_response_complete()
        if not self.transport.is_closing() and not self._in_slice:
            self._parse()

    def on_parsed(self) -> None:
        """Called when something has been parsed."""

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser does not take, for its reason instead of uvicorn's `msg`."""
        failure = self.conn.failure or Failure(400, msg)
        self.refuse(failure.status, failure.message)

    def refuse(self, status: int, message: str) -> None:
        """Answer with the NIM's error body and close."""
        if self.transport.is_closing():
            return
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        self._closing_early = True
        body = nim.error_body(Failure(status, message)).body
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
        if not self.is_idle():  # whoever reads this request's body finds that it ends here
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def is_idle(self) -> bool:
        """Whether no request of this connection is being answered."""
        return self.cycle is None or self.cycle.response_complete or self.transport.is_closing()

    @property
    def has_partial_head(self) -> bool:
        """Whether a part of a head has come, and not the whole."""
        awaited = self.conn.their_state is h11.IDLE and not self.transport.is_closing()
        return awaited and bool(self._unparsed or self.conn.trailing_data[0])

    def _should_upgrade(self) -> bool:
        """An offer of another protocol is ignored, without uvicorn's warnings: Java's client makes
        one with every request."""
        return False

    def _allow(self, events: int) -> None:
        self.conn.until = self.conn.events + events

    def _may_parse(self) -> bool:
        return self.conn.events < self.conn.until and not self.transport.is_closing()

    def _parse(self) -> None:
        """Parse what has come, as many events of it as are allowed, the others in later turns."""
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
        """Read while what comes is parsed and taken."""
        self.flow.paused = self._in_slice
        if self._in_slice or self._unparsed:
            self.flow.pause_reading()
        elif self.cycle is None or len(self.cycle.body) <= HIGH_WATER_LIMIT:
            self.flow.resume_reading()

    def _still_sending(self) -> bool:
        """Whether the client may still be sending a request that is not wanted any more."""
        return self._closing_early or self.conn.their_state is h11.SEND_BODY

    def _close_on_early_answer(self, app: ASGIApp) -> ASGIApp:
        """`app`, whose answers close the connection that are given before the body is whole."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            async def closing(message: Message) -> None:
                if message["type"] == "http.response.start" and self._still_sending():
                    self._closing_early = True
                    others = (field for field in message["headers"] if field[0] != _CLOSE[0])
                    message["headers"] = [*others, _CLOSE]
                await send(message)

            await app(scope, receive, closing)

        return answer
