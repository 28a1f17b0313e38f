"""The HTTP/1.1 request parser: h11 with limits, and stricter where it is lenient (RFC 9110, RFC
9112).
"""

import re

import h11

from server.errors import Failure

# The most bytes of a head, of the line before a chunk, or of the trailer fields.
_MOST_HEAD_BYTES = 16 << 10
# h11 gets a chunked body in pieces of this size, because its limit counts unparsed data.
_PIECE_BYTES = _MOST_HEAD_BYTES
# The overhead that chunks may add to a body: lines, extensions, trailers. A chunk costs 10 µs
# whatever its size; chunks of 128 bytes stay below the share. The free part is for clients that
# send JSON as they encode it, in chunks of a few bytes.
_FREE_OVERHEAD_BYTES = 256 << 10
_OVERHEAD_SHARE = 1 / 16

_LINE_END = b"\r\n"
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_LOOSE_LINES = re.compile(rb"(?<!\r)\n|\n[ \t]")
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?#@]+)([/?][^#]*)?", re.IGNORECASE)

_NO_REQUEST = Failure(400, "found bytes that are no request, wanted HTTP/1.1")
# Failures for h11's own refusals, by their status hint.
_HINTED = {
    431: Failure(
        431, f"found more than {_MOST_HEAD_BYTES} bytes of headers, wanted less; send fewer"
    ),
    501: Failure(400, "found a Transfer-Encoding that is not known here, wanted chunked"),
}

Event = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]


class ProtocolViolation(h11.RemoteProtocolError):
    """A request that violates HTTP. The message repeats nothing of the request."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message, error_status_hint=status)


class Parser(h11.Connection):
    """The parser of one connection. It has parsed `events` events and stops at `until`: then it
    reports that it needs data."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, _MOST_HEAD_BYTES)
        self.events = self.until = 0
        self.method = b""  # of the current request
        # Why `next_event` raised.
        self.failure: Failure | None = None
        self._head = bytearray()
        # The current body: the bytes left, if Content-Length is known; else the bytes received, and
        # those of them without chunk overhead.
        self._left: int | None = 0
        self._came = self._body = 0

    @property
    def wanted_bytes(self) -> int:
        """The bytes that it accepts now; 0 while the previous request is being answered."""
        if self.their_state is h11.IDLE:
            return _MOST_HEAD_BYTES + 1 - len(self._head)
        if self.their_state is not h11.SEND_BODY:
            return 0
        return _PIECE_BYTES if self._left is None else self._left

    def receive_data(self, data: bytes) -> None:
        """Buffer bytes for `next_event`."""
        if self.their_state is h11.IDLE:
            self._head += data
        self._came += len(data)
        super().receive_data(data)

    def start_next_cycle(self) -> None:
        """Go on with the next request."""
        super().start_next_cycle()
        self.method = b""
        self._head = bytearray(self.trailing_data[0])

    def next_event(self) -> Event:
        """The next event. Raises RemoteProtocolError and sets `failure`."""
        # After an empty line, wait for more data.
        if self.events >= self.until or self._head in (_LINE_END[:1], _LINE_END):
            return h11.NEED_DATA
        try:
            self._skip_an_empty_line()
            event = self._checked(super().next_event())
        except h11.RemoteProtocolError as error:
            self.failure = _failure(error)
            raise
        if isinstance(event, h11.Event):
            self.events += 1
        return event

    def _skip_an_empty_line(self) -> None:
        """Skip an empty line before a request (RFC 9112, 2.2); old clients end a body with one."""
        if self._head.startswith(_LINE_END):
            self._receive_buffer.maybe_extract_at_most(len(_LINE_END))
            del self._head[: len(_LINE_END)]

    def _checked(self, event: Event) -> Event:
        if isinstance(event, h11.Request):
            return self._request(event)
        if isinstance(event, h11.Data):
            self._body += len(event.data)
            if self._left is not None:
                self._left -= len(event.data)
        elif event is h11.NEED_DATA and self.their_state is h11.SEND_BODY and self._left is None:
            allowed = _FREE_OVERHEAD_BYTES + self._body * _OVERHEAD_SHARE
            if self._came - self._body > allowed:
                raise ProtocolViolation(
                    "found a body in too many small chunks; send larger ones, or Content-Length"
                )
        return event

    def _request(self, event: h11.Request) -> h11.Request:
        self.method = event.method
        self._check_head()
        if not event.http_version.startswith(b"1."):
            raise ProtocolViolation("found another version of HTTP, wanted HTTP/1.1", 505)
        found = dict(list(event.headers))
        if b"host" not in found and event.http_version > b"1.0":
            raise ProtocolViolation("found no Host, wanted one")
        length = found.get(b"content-length")
        coded = b"transfer-encoding" in found
        if coded and (length is not None or event.http_version == b"1.0"):
            raise ProtocolViolation(
                "found Transfer-Encoding with Content-Length or in HTTP/1.0, wanted one length of "
                "the body that cannot be misread"
            )
        self._left = None if coded else int(length or 0)
        self._came, self._body = len(self.trailing_data[0]), 0
        return _in_origin_form(event)

    def _check_head(self) -> None:
        end = _END_OF_HEAD.search(self._head)
        if _LOOSE_LINES.search(self._head, 0, end.end() if end else len(self._head)):
            raise ProtocolViolation(
                "found a line that is folded, or does not end in CR LF, wanted neither"
            )


def _in_origin_form(event: h11.Request) -> h11.Request:
    """The request with a path as its target. The host of an absolute target replaces the Host
    header (RFC 9112, 3.2.2)."""
    if event.target.startswith(b"/") or (event.method, event.target) == (b"OPTIONS", b"*"):
        return event
    found = _ABSOLUTE_FORM.fullmatch(event.target)
    if found is None:
        raise ProtocolViolation("found a target that is neither a path nor an address of HTTP")
    host, path = found.groups(b"")
    headers = [(name, host if name == b"host" else value) for name, value in event.headers]
    return h11.Request(
        method=event.method,
        headers=headers,
        target=path if path.startswith(b"/") else b"/" + path,
        http_version=event.http_version,
    )


def _failure(error: h11.RemoteProtocolError) -> Failure:
    """The failure for the client; h11's own messages would repeat the request."""
    if isinstance(error, ProtocolViolation):
        return Failure(error.error_status_hint, str(error))
    return _HINTED.get(error.error_status_hint, _NO_REQUEST)
