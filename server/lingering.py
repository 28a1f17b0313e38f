"""Closing a connection whose client still sends, so that it can read the answer it got."""

import asyncio
from collections.abc import Callable
from typing import Any

# A socket that is closed with bytes in it resets the connection, and the answer may be lost: what
# still comes is dropped unread for so long, and up to so many bytes.
_LINGER_S = 1.0
_LINGER_BYTES = 64 << 20
# For what is left to send then.
_FLUSH_S = 10.0


class LingeringTransport(asyncio.Transport):
    """A transport that closes in two steps while its client may be sending, as `may_come` tells
    when it is closed: the answer ends at once, the connection when the client has closed its side,
    or by the bounds above."""

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        still_sending: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._still_sending = still_sending
        self._lingers = False
        self._dropped_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Close, once what has been written is sent."""
        if self.is_closing():
            return
        if not self._still_sending():
            self._transport.close()
            return
        self._lingers = True
        self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._timer = self._loop.call_later(_LINGER_S, self.close_now)

    def close_now(self) -> None:
        """Close without waiting for what may still come."""
        self.cancel_timer()
        self._lingers = True
        self._transport.close()
        self._timer = self._loop.call_later(_FLUSH_S, self._transport.abort)

    def cancel_timer(self) -> None:
        """Wait for nothing any more, as when the connection is gone."""
        if self._timer is not None:
            self._timer.cancel()

    def drop(self, count: int) -> None:
        """Of what came since `close`, `count` bytes more are not looked at."""
        self._dropped_bytes += count
        if self._dropped_bytes > _LINGER_BYTES:
            self.close_now()

    def is_closing(self) -> bool:
        """Whether it has been closed, in either step."""
        return self._lingers or self._transport.is_closing()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send."""
        self._transport.write(data)

    def pause_reading(self) -> None:
        """Let the client wait."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take more."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Facts of the socket."""
        return self._transport.get_extra_info(name, default)
