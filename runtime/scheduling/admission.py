"""Admission control: queue capacity and early refusal of requests that would be late.

Only waiting rows take capacity. Running rows do not: batch limits bound them, and a request whose
last row is running must not keep others out while the engine falls idle. Under fair queueing a full
queue holds requests that are half computed on average. It therefore admits about twice its
capacity, and an accepted request may wait for twice that.

Running rows do count in predicted times, because an answer comes after all of them.
"""

from dataclasses import dataclass

from runtime.errors import DeadlineExceeded, Overloaded, TooLate
from runtime.throughput import Throughput


@dataclass(frozen=True)
class QueueLimits:
    """The queue's capacity, in rows and in tokens that wait for the engine."""

    rows: int
    tokens: int


@dataclass(eq=False)
class Reservation:
    """Capacity for one request: `rows` rows and an estimate of their `tokens`. `for_engine` says
    whether the engine will compute them."""

    rows: int
    tokens: int
    for_engine: bool


@dataclass(frozen=True)
class Load:
    """The scheduler's load at the time `now`: `rows` and `tokens` that wait, the `calls` that run
    and their `running_tokens`."""

    now: float
    rows: int
    tokens: int
    calls: int
    running_tokens: int


class Admission:
    """Admission control: the capacity that tickets have reserved, and whether more is free.

    Not thread-safe: its owner has a lock.
    """

    def __init__(self, capacity: QueueLimits) -> None:
        self.throughput = Throughput()
        self.rows = 0
        self._tokens = 0
        # Reserved tokens that the engine will compute.
        self._engine_tokens = 0
        self._capacity = capacity

    def count(self, reserved: Reservation, times: int) -> None:
        """Reserve this capacity (`times` = 1) or release it (-1)."""
        self.rows += times * reserved.rows
        self._tokens += times * reserved.tokens
        self._engine_tokens += times * reserved.tokens if reserved.for_engine else 0

    def predicted_s(self, tokens: int, load: Load) -> float:
        """A lower bound on the seconds that `tokens` take."""
        busy = bool(load.calls or load.rows)
        return self.throughput.predicted_s(tokens, load.now, busy=busy)

    def check(
        self, load: Load, rows: int, tokens: int, deadline: float | None, *, exact: bool
    ) -> None:
        """Raise Overloaded, TooLate or DeadlineExceeded unless a request of that size may wait.

        An empty queue admits any size. An estimate of the tokens may refuse a request for a full
        queue, but TooLate needs the `exact` number.
        """
        waiting_rows = load.rows + self.rows
        waiting_tokens = load.tokens + self._tokens
        backlog_tokens = load.tokens + self._engine_tokens + load.running_tokens
        backlog_s = self.predicted_s(backlog_tokens, load)
        retry_after_s = max(1.0, backlog_s)
        for waiting, added, capacity, unit in (
            (waiting_rows, rows, self._capacity.rows, "rows"),
            (waiting_tokens, tokens, self._capacity.tokens, "tokens"),
        ):
            if waiting_rows and waiting + added > capacity:
                raise Overloaded(
                    f"the queue holds {waiting} {unit} and has room for {capacity}; "
                    f"this request brings {added}",
                    retry_after_s,
                )
        if deadline is None:
            return
        if deadline <= load.now:
            raise DeadlineExceeded
        left_s = deadline - load.now
        alone_s = self.predicted_s(tokens, load) if exact else 0.0
        if alone_s > left_s:
            raise TooLate(
                f"the answer would take {alone_s:.0f} s alone, longer than the request's deadline; "
                "send fewer or shorter passages, or raise NIM_REQUEST_TIMEOUT_S",
                retry_after_s,
            )
        needed_s = backlog_s + alone_s
        if needed_s > left_s:
            raise Overloaded(
                f"the answer would take {needed_s:.0f} s, the requests before it included, longer "
                "than the request's deadline; send it again",
                retry_after_s,
            )
