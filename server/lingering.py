"""Lingering close: a client that still sends can read the answer before the connection closes."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

# Closing a socket with unread data resets the connection, and the answer may be lost. So further
# data is read and dropped, for this long and up to this many bytes.
_LINGER_S = 1.0
_LINGER_BYTES = 64 << 20
# Time for sending the rest of the answer afterwards.
_FLUSH_S = 10.0

# asyncio's class has methods that only raise; without them `__getattr__` finds the real ones.
if TYPE_CHECKING:
    _Transport = asyncio.Transport
else:
    _Transport = object


class LingeringTransport(_Transport):
    """`transport` with a lingering close. If `still_sending` says that the client may still send,
    `close` ends the answer at once, and the connection when the client closes its side or a limit
    above is reached."""

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        still_sending: Callable[[], bool],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._still_sending = still_sending
        self._lingers = False
        self._dropped_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Close once all written data is sent."""
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
        """Close without waiting for further data."""
        self.cancel_timer()
        self._lingers = True
        self._transport.close()
        self._timer = self._loop.call_later(_FLUSH_S, self._transport.abort)

    def cancel_timer(self) -> None:
        """Cancel the timer, as when the connection is gone."""
        if self._timer is not None:
            self._timer.cancel()

    def drop(self, count: int) -> None:
        """Count `count` bytes that arrived after `close` and are dropped."""
        self._dropped_bytes += count
        if self._dropped_bytes > _LINGER_BYTES:
            self.close_now()

    def is_closing(self) -> bool:
        """Whether it has been closed, in either step."""
        return self._lingers or self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
