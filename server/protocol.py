"""Connection limits: timeouts and a number of connections, which uvicorn does not limit.

uvicorn 0.54 waits for ever for the head of a first request and for a client that does not read its
answer, and accepts any number of connections. `uvicorn --http server.protocol:BoundedProtocol`
applies the limits under plain uvicorn, with the default header timeout.
"""

import asyncio
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import h11
from litestar.types import ASGIApp, Receive, Scope, Send

from server.auth import OPEN_PATHS
from server.descriptors import API_SHARE, most_connections
from server.errors import Failure
from server.framing import FramedProtocol
from server.nim_error import error_body
from server.surface import send_failure

_HEADER_TIMEOUT_S = 20
# A client that reads nothing of its answer for this long is disconnected.
_RESPONSE_READ_TIMEOUT_S = 60
# Time for sending the rest when an idle connection is closed.
_FLUSH_S = 10
# Grace period for the first request of a connection that was made just before the shutdown: closing
# it would reset a request on its way.
_FIRST_REQUEST_GRACE_S = 0.25
_TLS_CLOSE_TIMEOUT_S = 1
# Connections beyond the limit, so that an orchestrator's probes reach a full server.
_PROBES = 8
_FULL = Failure(
    503,
    "this server has no connection left; try again",
    headers={"retry-after": "1", "connection": "close"},
)


class BoundedProtocol(FramedProtocol):
    """The protocol of a connection, with timeouts for request heads and for reading answers, and a
    limit of connections (`most_connections`; None for the API's share of the file descriptors)."""

    def __init__(
        self,
        *arguments: Any,
        header_timeout_s: float = _HEADER_TIMEOUT_S,
        most_connections: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._header_timeout_s = header_timeout_s
        self._most_connections = most_connections or _share_of_plain_uvicorn()
        self._header_timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None
        self._received = False
        # When the body began, while it is being received.
        self._body_since: float | None = None
        # When it was accepted beyond the limit, for health requests only, until a slot is free.
        self._probing_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the header timeout. At the limit, an idle connection or one with a slow body is
        closed to free a slot. If there is none, this connection may request health only."""
        super().connection_made(transport)
        if not self._has_slot():
            self._probing_since = self.loop.time()
            self.app = self._health_only(self.app)
            self._limit_probes()
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Note that this connection is in use."""
        self._received = True
        super().data_received(data)

    def on_parsed(self) -> None:
        """Update the header timeout, and note when a body began."""
        if self.conn.their_state is not h11.SEND_BODY:
            self._body_since = None
        elif self._body_since is None:
            self._body_since = self.loop.time()
        if not self.has_partial_head:
            self._header_timer = _cancelled(self._header_timer)
        elif self._header_timer is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        self._header_timer = _cancelled(self._header_timer)
        self._reader_timer = _cancelled(self._reader_timer)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the read timeout: the client reads its answer slower than it is written."""
        super().pause_writing()
        if self._reader_timer is None:
            self._reader_timer = self.loop.call_later(
                _RESPONSE_READ_TIMEOUT_S, self.transport.abort
            )

    def resume_writing(self) -> None:
        """Cancel the read timeout."""
        super().resume_writing()
        self._reader_timer = _cancelled(self._reader_timer)

    def shutdown(self) -> None:
        """Close an idle connection; a new one gets a grace period for its first request."""
        if self._received:
            self._shut_down()
        else:
            self.loop.call_later(_FIRST_REQUEST_GRACE_S, self._shut_down)

    def _shut_down(self) -> None:
        """uvicorn's shutdown, without waiting for a TLS client's close notification."""
        if self.transport.is_closing():
            return
        super().shutdown()
        if self.is_idle():
            self.loop.call_later(_TLS_CLOSE_TIMEOUT_S, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        """Close the idle connection, even if the client does not read the last bytes."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(_FLUSH_S, self.transport.abort)

    def _await_head(self) -> None:
        self._header_timer = self.loop.call_later(self._header_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._header_timer = None
        if not self._received:  # a connection opened in advance
            self.transport.close()
            return
        self.refuse(408, f"no whole request head within {self._header_timeout_s:g} seconds")

    def _has_slot(self) -> bool:
        """Whether this connection has a slot within the limit; tries to free one."""
        if len(self.connections) <= self._most_connections:
            return True
        # Those that count towards the limit.
        others = [other for other in self._others() if other._probing_since is None]
        return len(others) < self._most_connections or self._make_room(others)

    def _make_room(self, others: "list[BoundedProtocol]") -> bool:
        for other in others:
            if other.is_idle():
                other.transport.abort()
                self.connections.discard(other)
                return True
        # A body may always take as long as a head.
        late = self.loop.time() - self._header_timeout_s
        began = {one: one._body_since for one in others if one._body_since is not None}
        slowest = min(began, key=lambda one: began[one], default=None)
        if slowest is None or began[slowest] > late:
            return False
        slowest.refuse(408, "this body takes too long, and the server has no connection left")
        slowest.transport.close_now()
        self.connections.discard(slowest)
        return True

    def _limit_probes(self) -> None:
        """Close the oldest connection beyond the limit if there are too many, so that this one,
        which may be a probe, is served."""
        began = {
            one: one._probing_since for one in self._others() if one._probing_since is not None
        }
        if len(began) < _PROBES:
            return
        oldest = min(began, key=lambda one: began[one])
        oldest.transport.abort()
        self.connections.discard(oldest)

    def _others(self) -> "Iterator[BoundedProtocol]":
        for other in self.connections:
            if isinstance(other, BoundedProtocol) and other is not self:
                yield other

    def _health_only(self, app: ASGIApp) -> ASGIApp:
        """Middleware: pass health requests on to `app`, and all requests once there is a slot;
        answer others with 503."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"].rstrip("/") in OPEN_PATHS:
                await app(scope, receive, send)
            elif self._probing_since is None or self._has_slot():
                self._probing_since = None
                await app(scope, receive, send)
            else:
                await send_failure(_FULL, error_body, send)

        return answer


def limited_protocol(header_timeout_s: float, share: float) -> Any:
    """The protocol for uvicorn's option `http`. Its connections, probes included, get `share` of
    the free file descriptors."""
    return partial(
        BoundedProtocol,
        header_timeout_s=header_timeout_s,
        most_connections=most_connections(share, _PROBES),
    )


@cache
def _share_of_plain_uvicorn() -> int:
    """The API's limit of connections, counted at the first connection."""
    return most_connections(API_SHARE, _PROBES)


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Cancel the timer and return None, to replace it."""
    if timer is not None:
        timer.cancel()
    return None
