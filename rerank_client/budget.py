"""The budget of one exchange with the server: seconds, and bytes of the answer.

The current budget is a context variable, because the network streams that spend it
(`rerank_client.streams`) outlive an exchange: connections stay open.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import httpcore

# Operating systems limit one wait to 24 days.
_MAX_WAIT_S = 86_400.0


class TooLarge(Exception):
    """The server sent more bytes than the answer's limit."""


class Budget:
    """`seconds` from now on, and `max_bytes` from the server, headers and framing included.

    `bytes` counts the received bytes.
    """

    def __init__(self, seconds: float, max_bytes: int) -> None:
        self._deadline_s = time.monotonic() + seconds
        self._max_bytes = max_bytes
        self.bytes = 0

    def seconds(self, most: float | None = None) -> float:
        """The timeout of one wait, above 0 and at most `most`: the remaining time, or a day.

        Raises httpcore.TimeoutException when no time is left.
        """
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise httpcore.TimeoutException("the time limit passed before the answer was complete")
        left_s = min(left_s, _MAX_WAIT_S)
        return left_s if most is None else min(left_s, most)

    def count(self, data: bytes) -> bytes:
        """Count received `data`, and return it. Raises TooLarge."""
        self.bytes += len(data)
        if self.bytes > self._max_bytes:
            raise TooLarge(f"more than {self._max_bytes} bytes came, wanted at most that")
        return data

    def limit(self, more_bytes: int) -> None:
        """Lower the limit to `more_bytes` from now on."""
        self._max_bytes = min(self._max_bytes, self.bytes + more_bytes)


_running: ContextVar[Budget] = ContextVar("rerank_client_budget")
# The budget of the current exchange in this thread or task.
current_budget = _running.get


@contextmanager
def use_budget(budget: Budget) -> Iterator[None]:
    """Make `budget` the current one in this thread or task."""
    token = _running.set(budget)
    try:
        yield
    finally:
        _running.reset(token)
