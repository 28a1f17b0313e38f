"""What one exchange with the server may take: seconds, and bytes of the answer.

The budget of the exchange that runs now is a context variable, because the network streams that
spend it (`rerank_client.streams`) outlive an exchange: connections stay open.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import httpcore

# The longest that an operating system can be asked to wait at once is 24 days.
_LONGEST_WAIT_S = 86_400.0


class TooLarge(Exception):
    """More bytes came from the server than its answer may take."""


class Budget:
    """`seconds` from now on, and `most_bytes` from the server, headers and framing included.

    `bytes` is how many came.
    """

    def __init__(self, seconds: float, most_bytes: int) -> None:
        self._until_s = time.monotonic() + seconds
        self._most_bytes = most_bytes
        self.bytes = 0

    def seconds(self, most: float | None = None) -> float:
        """How long one wait may take, more than 0 and at most `most`: what is left, or a day.

        Raises httpcore.TimeoutException when nothing is left.
        """
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise httpcore.TimeoutException("the time limit passed before the answer was whole")
        left_s = min(left_s, _LONGEST_WAIT_S)
        return left_s if most is None else min(left_s, most)

    def count(self, data: bytes) -> bytes:
        """`data`, which came from the server. Raises TooLarge."""
        self.bytes += len(data)
        if self.bytes > self._most_bytes:
            raise TooLarge(f"more than {self._most_bytes} bytes came, wanted at most that")
        return data

    def narrow(self, more_bytes: int) -> None:
        """No more than so many from now on."""
        self._most_bytes = min(self._most_bytes, self.bytes + more_bytes)


_running: ContextVar[Budget] = ContextVar("rerank_client_budget")


@contextmanager
def spending(budget: Budget) -> Iterator[None]:
    """What is sent and read inside, in this thread or task, is counted there."""
    token = _running.set(budget)
    try:
        yield
    finally:
        _running.reset(token)


def running_budget() -> Budget:
    """That of the exchange that runs in this thread or task."""
    return _running.get()
