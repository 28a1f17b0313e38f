"""Who may wait for the engine: room and tickets, and the refusal of what cannot be in time.

Only what waits takes room. Rows in an engine call do not: they are bounded by the batches, and a
request whose last row is computed must not keep others out while the engine falls idle. So a queue
that is full of requests which take turns, and are half computed on average, lets in about twice
what it holds, and an accepted request sees twice the bound go by. What runs counts where time is
predicted: an answer comes behind all of it.
"""

from collections.abc import Sequence, Sized
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from runtime.errors import DeadlineExceeded, Overloaded, TooLate
from runtime.scheduling.request import Scored
from runtime.throughput import Throughput


@dataclass(frozen=True)
class QueueLimits:
    """What may wait for the engine: so many rows, and so many tokens."""

    rows: int
    tokens: int


class Issuer(Protocol):
    """What a ticket knows of the scheduler that issued it."""

    def check(self, ticket: "Ticket") -> None:
        """See Ticket.check."""

    def exchange(self, ticket: "Ticket", encodings: Sequence[Sized]) -> "Future[Scored]":
        """See Ticket.submit."""

    def take_back(self, ticket: "Ticket") -> None:
        """The room of a ticket is free again; may be called twice."""


class Ticket:
    """Room for one request whose texts become rows: `rows` rows, and about `tokens` tokens, which
    the engine computes where they are `for_engine`.

    A context manager: at its end the room is given back, unless `submit` has exchanged it.
    """

    def __init__(
        self,
        issuer: Issuer,
        rows: int,
        tokens: int,
        deadline: float | None,
        caller: str,
        *,
        for_engine: bool,
    ) -> None:
        self._issuer = issuer
        self.rows = rows
        self.tokens = tokens
        self.deadline = deadline
        self.caller = caller
        self.for_engine = for_engine
        # Whether the scheduler still counts it; changed by the issuer, under its lock.
        self.holds = True

    def check(self) -> None:
        """Raise when the work for the request is in vain; from any thread, without any lock.

        CancelledError when the ticket was given back, DeadlineExceeded, or ModelClosed.
        """
        if not self.holds:
            raise CancelledError
        self._issuer.check(self)

    def submit(self, encodings: Sequence[Sized]) -> "Future[Scored]":
        """Queue all rows or none; cancel the future to drop the rows that still wait.

        The room that the ticket held does not count beside what the rows need. Raises as
        `Scheduler.submit` does, which has the exact number of tokens and the last word.
        """
        return self._issuer.exchange(self, encodings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._issuer.take_back(self)


@dataclass(frozen=True)
class Load:
    """What the scheduler has to do at the time `now`: `rows` and `tokens` that wait, and the
    tokens of all `calls` that run."""

    now: float
    rows: int
    tokens: int
    calls: int
    running_tokens: int


class Admission:
    """The room that tickets hold, and whether there is more. Not thread-safe: its owner has a
    lock."""

    def __init__(self, room: QueueLimits) -> None:
        self.throughput = Throughput()
        self.rows = 0
        self._tokens = 0
        # Those of them that the engine will compute.
        self._work = 0
        self._room = room

    def hold(self, ticket: Ticket) -> None:
        """Keep the room of a ticket."""
        self._count(ticket, 1)

    def give_back(self, ticket: Ticket) -> None:
        """Let the room of a ticket go."""
        self._count(ticket, -1)

    def _count(self, ticket: Ticket, times: int) -> None:
        self.rows += times * ticket.rows
        self._tokens += times * ticket.tokens
        self._work += times * ticket.tokens if ticket.for_engine else 0

    def predicted_s(self, tokens: int, load: Load) -> float:
        """Seconds that `tokens` take at least."""
        busy = bool(load.calls or load.rows)
        return self.throughput.predicted_s(tokens, load.now, busy=busy)

    def check(
        self, load: Load, rows: int, tokens: int, deadline: float | None, *, exact: bool
    ) -> None:
        """Raise Overloaded, TooLate or DeadlineExceeded unless a request of that size may wait.

        Where nothing waits, one of any size may. An estimate of its tokens is good enough for a
        full queue, but not for saying that the request itself takes too long.
        """
        waiting_rows = load.rows + self.rows
        waiting_tokens = load.tokens + self._tokens
        backlog_s = self.predicted_s(load.tokens + self._work + load.running_tokens, load)
        retry_after_s = max(1.0, backlog_s)
        for waiting, brought, room, unit in (
            (waiting_rows, rows, self._room.rows, "rows"),
            (waiting_tokens, tokens, self._room.tokens, "tokens"),
        ):
            if waiting_rows and waiting + brought > room:
                raise Overloaded(
                    f"the queue holds {waiting} {unit} and has room for {room}; "
                    f"this request brings {brought}",
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
                f"the answer would take {needed_s:.0f} s for what waits before it and itself, "
                "longer than the request's deadline; send it again",
                retry_after_s,
            )
