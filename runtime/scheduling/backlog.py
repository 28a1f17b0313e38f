"""The backlog: waiting and running rows, shared by callers and the threads that call the engine.

Event loops take its lock too, so it is held for short steps only. Requests are answered without it,
because their callbacks run then. Many requests are ended one by one, a few rows at a time.
"""

import itertools
import math
import threading
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import CancelledError, Future
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from runtime.batch import BatchLimits
from runtime.errors import DeadlineExceeded, ModelClosed, ServingError
from runtime.postprocess import EngineCall
from runtime.scheduling.admission import Admission, Load, QueueLimits, Reservation
from runtime.scheduling.calls import Result
from runtime.scheduling.request import Request, Row, Scored
from runtime.scheduling.request_queue import RequestQueue
from runtime.scheduling.stats import SchedulerStats

# When a request ends, at most this many of its rows leave the queue before the lock is released.
_ROWS_PER_LOCK = 16

Outcome = Scored | ServingError


@dataclass(eq=False)
class Batch:
    """The rows of one engine call, which `began` and `ended` at these times, and their tokens.
    Until the call begins, `began` is when they were taken. Batches are numbered in that order."""

    rows: list[Row]
    began: float
    ended: float
    tokens: int
    number: int
    has_begun: bool = False


@dataclass(eq=False)
class Ticket(Reservation):
    """Capacity that is reserved for one request while its texts are tokenised. `is_held` says
    whether it still is; the backlog changes that under its lock.

    A context manager: leaving it releases the capacity, unless `submit` has used it.
    """

    deadline: float | None
    caller: str
    backlog: "Backlog"
    is_held: bool = True

    def check(self) -> None:
        """Raise when further work for the request is pointless. Any thread; takes no lock.

        Raises CancelledError when the ticket was released, DeadlineExceeded, or ModelClosed.
        """
        if not self.is_held:
            raise CancelledError
        self.backlog.check(self.deadline)

    def submit(self, encodings: Sequence[Sized]) -> "Future[Scored]":
        """Queue all rows or none; cancel the future to drop the rows that still wait.

        The ticket's own reservation is released first. Admission is checked again, with the exact
        number of tokens. Raises as `Scheduler.submit` does.
        """
        return self.backlog.enqueue(self, encodings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.backlog.release(self)


class Backlog:
    """Requests from admission to their answer; every method may be called from any thread.

    `window_s` is the batching window: how long a row may wait for more rows while the engine is
    idle and the batch not full. Up to `lanes` batches run at the same time, and up to `ahead` full
    ones are taken before they can.
    """

    def __init__(
        self,
        limits: BatchLimits,
        queue: QueueLimits,
        window_s: float,
        lanes: int,
        clock: Callable[[], float],
        ahead: int = 0,
    ) -> None:
        self._limits = limits
        self._window_s = window_s
        self._lanes = lanes
        self._ahead = ahead
        self._clock = clock
        self._changed = threading.Condition()
        self._admission = Admission(queue)
        self._queue = RequestQueue()
        self._running: list[Batch] = []
        self._numbers = itertools.count()
        self._stats = SchedulerStats()
        # The error for every new and waiting request, once admission is closed.
        self._closed_by: Callable[[], ServingError] | None = None

    def admit(
        self,
        rows: int,
        tokens: int,
        deadline: float | None,
        caller: str = "",
        *,
        for_engine: bool = True,
    ) -> Ticket:
        """Admission control: reserve capacity for a request before its texts are tokenised.

        `tokens` is an estimate, `deadline` in seconds of the clock. Fair queueing counts by
        `caller`; requests without one are one caller. A request that cannot be admitted is refused
        here, before any work is done for it. One that is not `for_engine` takes capacity but no
        engine time. Raises Overloaded when the queue is full, or when the measured speed puts the
        answer after the deadline; TooLate and DeadlineExceeded; and what `end` was called with.
        """
        ticket = Ticket(rows, tokens, for_engine, deadline, caller, self)
        with self._changed:
            self._require_open()
            self._admission.check(self._load(), rows, tokens, deadline, exact=False)
            self._admission.count(ticket, 1)
        return ticket

    def check(self, deadline: float | None) -> None:
        """See Ticket.check."""
        self._require_open()
        if deadline is not None and deadline <= self._clock():
            raise DeadlineExceeded

    def enqueue(self, ticket: Ticket, encodings: Sequence[Sized]) -> "Future[Scored]":
        """See Ticket.submit."""
        request = Request(encodings, ticket.deadline, ticket.caller, self._clock())
        if not encodings:
            nothing = np.empty(0, dtype=np.float32)
            request.answer(Scored(nothing, queue_ms=0.0, engine_ms=0.0))
            return request.future
        with self._changed:
            self._require_open()
            self._release(ticket)
            load, rows, tokens = self._load(), len(encodings), request.tokens
            self._admission.check(load, rows, tokens, ticket.deadline, exact=True)
            self._queue.add(request, load.now)
            self._changed.notify_all()
        request.future.add_done_callback(
            lambda future: self._drop(request) if future.cancelled() else None
        )
        return request.future

    def release(self, ticket: Ticket) -> None:
        """Free a ticket's capacity, unless it is free already."""
        with self._changed:
            self._release(ticket)

    def end(self, error: Callable[[], ServingError]) -> None:
        """Stop admission and answer every waiting request with `error`. After ModelClosed, `take`
        returns None."""
        with self._changed:
            if self._closed_by is not ModelClosed:
                self._closed_by = error
            self._changed.notify_all()
        self._end_each(self._queue.oldest, error)

    def take(self) -> Batch | None:
        """Wait for the next batch and return it; None once the backlog is closed for good."""
        while True:
            with self._changed:
                while self._closed_by is not ModelClosed and (pause_s := self._pause_s()) != 0:
                    self._changed.wait(pause_s)
                if self._closed_by is ModelClosed:
                    return None
                if self._queue.due(self._clock()) is None:
                    return self._next_batch()
            self._end_each(lambda: self._queue.due(self._clock()), DeadlineExceeded)

    def begin(self, batch: Batch) -> None:
        """The call of this batch begins now, its first one if it is halved. Raises what `end` was
        called with."""
        with self._changed:
            if not batch.has_begun:
                self._require_open()
                batch.has_begun, batch.began = True, self._clock()

    def finish(self, batch: Batch, result: Result, call: EngineCall) -> list[Outcome]:
        """Record a batch that was computed, and answer the requests that are complete or failed.
        Returns their outcomes."""
        with self._changed:
            outcomes = [(share.request, share.settle(call)) for share in result.shares]
            if result.error is None:
                # Batches that run at the same time share the machine.
                sharing = min(len(self._running), self._lanes)
                seconds = (call.ended - call.began) / sharing
                self._admission.throughput.record(call.real_tokens, seconds, call.ended)
            self._stats.count(batch.rows, call, failed=result.error is not None)
            # Last, so that `fail_running` still finds this batch if anything above fails.
            self._running.remove(batch)
        for request, outcome in outcomes:
            if outcome is not None:
                self._end(request, outcome)
        return [outcome for _, outcome in outcomes if outcome is not None]

    def fail_running(self, error: Callable[[], ServingError]) -> None:
        """Answer the requests whose rows are in the engine with `error`."""
        with self._changed:
            served = {row.request for batch in self._running for row in batch.rows}
        for request in served:
            self._end(request, error())

    def set_limits(self, limits: BatchLimits) -> None:
        """Apply `limits` to batches from now on."""
        with self._changed:
            self._limits = limits
            self._changed.notify_all()

    def shrink(self, budget: int) -> None:
        """Lower the token budget of batches to `budget`, until `set_limits`."""
        with self._changed:
            budget = min(budget, self._limits.token_budget)
            self._limits = replace(self._limits, token_budget=budget)

    def inherit_estimates(self, before: "Backlog") -> None:
        """Start from the throughput that `before`, the replaced one, has measured."""
        with before._changed:
            known = deepcopy(before._admission.throughput)
        with self._changed:
            self._admission.throughput.inherit_estimates(known)

    def pending(self) -> int:
        """Requests with rows that wait for an engine call."""
        with self._changed:
            return len(self._queue)

    def queue_depth(self) -> tuple[int, int]:
        """Rows and tokens that wait for an engine call."""
        with self._changed:
            return self._queue.rows, self._queue.tokens

    def predicted_s(self, tokens: int) -> float:
        """The least seconds that `tokens` take; 0 while nothing was measured."""
        with self._changed:
            return self._admission.predicted_s(tokens, self._load())

    def stats(self) -> SchedulerStats:
        """A snapshot of the counters."""
        with self._changed:
            return replace(self._stats)

    def idle(self) -> bool:
        """Whether no row waits or runs, and no ticket holds capacity."""
        with self._changed:
            return not (self._queue.rows or self._running or self._admission.rows)

    def running_s(self) -> float:
        """Seconds that the oldest running engine call has taken so far; 0 without one. If none has
        begun, the time since the first was taken."""
        with self._changed:
            begun = [batch for batch in self._running if batch.has_begun] or self._running
            since = min((batch.began for batch in begun), default=None)
        return 0.0 if since is None else self._clock() - since

    def _require_open(self) -> None:
        if self._closed_by is not None:
            raise self._closed_by()

    def _load(self) -> Load:
        """The current load; the lock is held."""
        return Load(
            self._clock(),
            self._queue.rows,
            self._queue.tokens,
            len(self._running),
            sum(batch.tokens for batch in self._running),
        )

    def _release(self, ticket: Ticket) -> None:
        """`release` while the lock is held."""
        if ticket.is_held:
            ticket.is_held = False
            self._admission.count(ticket, -1)

    def _end(self, request: Request, outcome: Outcome) -> None:
        """Answer a request and drop its waiting rows; the lock is not held."""
        request.answer(outcome)
        if request.waiting:
            self._drop(request)

    def _end_each(
        self, find: Callable[[], Request | None], error: Callable[[], ServingError]
    ) -> None:
        """End waiting requests until `find` returns None; the lock is not held."""
        while True:
            with self._changed:
                request = find()
            if request is None:
                return
            self._end(request, error())

    def _drop(self, request: Request) -> None:
        """Remove a request's waiting rows, a few each time the lock is taken."""
        more = True
        while more:
            with self._changed:
                more = self._queue.drop(request, _ROWS_PER_LOCK, self._clock())

    def _pause_s(self) -> float | None:
        """Seconds to wait before the next batch; None: until something changes. The lock is
        held."""
        oldest, limits, idle = self._queue.oldest(), self._limits, self._idle_lanes()
        full = self._queue.rows >= limits.max_rows or self._queue.tokens >= limits.token_budget
        if oldest is None or idle + (self._ahead if full else 0) <= 0:
            return None
        if full:
            return 0
        return max(0.0, oldest.submitted + self._window_s - self._clock())

    def _next_batch(self) -> Batch:
        """Take a batch from the queue, and leave idle lanes their share of the rows. The lock is
        held."""
        now = self._clock()
        idle = self._idle_lanes()
        limits = self._limits.within(math.ceil(self._queue.rows / max(1, idle)))
        rows = self._queue.take(limits, now, in_order=self._is_late(now))
        tokens = sum(row.length for row in rows)
        batch = Batch(rows, now, now, tokens, next(self._numbers))
        self._running.append(batch)
        return batch

    def _idle_lanes(self) -> int:
        """How many more calls may run now; the lock is held."""
        return min(self._lanes, self._limits.lanes or self._lanes) - len(self._running)

    def _is_late(self, now: float) -> bool:
        """Whether computing everything that waits may miss the first deadline."""
        first = self._queue.first_deadline()
        if first is None:
            return False
        everything = self._queue.tokens + self._limits.token_budget
        return now + self._admission.predicted_s(everything, self._load()) > first
