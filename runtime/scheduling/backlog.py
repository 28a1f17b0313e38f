"""The backlog: what waits and what runs, shared by callers and the threads that call the engine.

Event loops take its lock. So nobody is answered under it, since waiters have callbacks, and many
requests are ended one by one, a few rows at a time.
"""

import math
import threading
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import Future
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np

from runtime.batch import BatchLimits
from runtime.errors import DeadlineExceeded, ModelClosed, ServingError
from runtime.postprocess import EngineCall
from runtime.scheduling.admission import Admission, Load, QueueLimits, Ticket
from runtime.scheduling.calls import Result
from runtime.scheduling.request import Request, Row, Scored
from runtime.scheduling.stats import SchedulerStats
from runtime.scheduling.waiting import Waiting

# Rows of a request that ends which leave the queue under one hold of the lock.
_ROWS_A_HOLD = 16

Outcome = Scored | ServingError


@dataclass(eq=False)
class Batch:
    """The rows of one engine call, which `began` at that time, and their tokens."""

    rows: list[Row]
    began: float
    tokens: int


class Backlog:
    """Requests from admission to their answer; every method may be called from any thread.

    `window_s` is how long a row may wait for company while the engine is idle and the batch not
    full; up to `lanes` batches run at the same time.
    """

    def __init__(
        self,
        limits: BatchLimits,
        queue: QueueLimits,
        window_s: float,
        lanes: int,
        clock: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._window_s = window_s
        self._lanes = lanes
        self._clock = clock
        self._changed = threading.Condition()
        self._admission = Admission(queue)
        self._waiting = Waiting()
        self._running: list[Batch] = []
        self._stats = SchedulerStats()
        # Why nobody is admitted any more.
        self._shut: Callable[[], ServingError] | None = None

    def admit(
        self, rows: int, tokens: int, deadline: float | None, caller: str, *, for_engine: bool
    ) -> Ticket:
        """See Scheduler.admit."""
        ticket = Ticket(self, rows, tokens, deadline, caller, for_engine=for_engine)
        with self._changed:
            self._require_open()
            self._admission.check(self._load(), rows, tokens, deadline, exact=False)
            self._admission.hold(ticket)
        return ticket

    def check(self, ticket: Ticket) -> None:
        """See Ticket.check."""
        self._require_open()
        if ticket.deadline is not None and ticket.deadline <= self._clock():
            raise DeadlineExceeded

    def exchange(self, ticket: Ticket, encodings: Sequence[Sized]) -> "Future[Scored]":
        """See Ticket.submit."""
        request = Request(encodings, ticket.deadline, ticket.caller, self._clock())
        if not encodings:
            nothing = np.empty(0, dtype=np.float32)
            request.answer(Scored(nothing, queue_ms=0.0, engine_ms=0.0))
            return request.future
        with self._changed:
            self._require_open()
            self._take_back(ticket)
            load, rows, tokens = self._load(), len(encodings), request.tokens
            self._admission.check(load, rows, tokens, ticket.deadline, exact=True)
            self._waiting.add(request, load.now)
            self._changed.notify_all()
        request.future.add_done_callback(
            lambda future: self._drop(request) if future.cancelled() else None
        )
        return request.future

    def take_back(self, ticket: Ticket) -> None:
        """The room of a ticket is free again, if it was not before."""
        with self._changed:
            self._take_back(ticket)

    def shut(self, error: Callable[[], ServingError]) -> None:
        """Admit nobody any more and answer everybody who waits, with `error`. After ModelClosed
        `take` gives nothing more."""
        with self._changed:
            if self._shut is not ModelClosed:
                self._shut = error
            self._changed.notify_all()
        self._end_each(self._waiting.oldest, error)

    def take(self) -> Batch | None:
        """The rows of the next engine call, when there are some; None when all is over."""
        while True:
            with self._changed:
                while self._shut is not ModelClosed and (pause_s := self._pause_s()) != 0:
                    self._changed.wait(pause_s)
                if self._shut is ModelClosed:
                    return None
                if self._waiting.due(self._clock()) is None:
                    return self._next_batch()
            self._end_each(lambda: self._waiting.due(self._clock()), DeadlineExceeded)

    def finish(self, batch: Batch, result: Result, call: EngineCall) -> list[Outcome]:
        """Count a batch that was taken, and answer the requests that are complete, or failed; their
        outcomes."""
        with self._changed:
            outcomes = [(share.request, share.settle(call)) for share in result.shares]
            if result.error is None:
                # The others that run share the machine with it.
                seconds = (call.ended - call.began) / len(self._running)
                self._admission.throughput.record(call.real_tokens, seconds, call.ended)
            self._stats.count(batch.rows, call, failed=result.error is not None)
            # Last: whatever fails before, `fail_running` finds who waits for this call.
            self._running.remove(batch)
        for request, outcome in outcomes:
            if outcome is not None:
                self._end(request, outcome)
        return [outcome for _, outcome in outcomes if outcome is not None]

    def fail_running(self, error: Callable[[], ServingError]) -> None:
        """Answer those with rows in the engine, which may not come back."""
        with self._changed:
            served = {row.request for batch in self._running for row in batch.rows}
        for request in served:
            self._end(request, error())

    def bound(self, limits: BatchLimits) -> None:
        """Keep the batches that are taken from now on within `limits`."""
        with self._changed:
            self._limits = limits

    def shrink(self, budget: int) -> None:
        """Cut the batches that are taken from now on to `budget` tokens, until `bound`."""
        with self._changed:
            budget = min(budget, self._limits.token_budget)
            self._limits = replace(self._limits, token_budget=budget)

    def follow(self, before: "Backlog") -> None:
        """Predict with what was measured of the one that this one replaces."""
        with before._changed:
            known = deepcopy(before._admission.throughput)
        with self._changed:
            self._admission.throughput.follow(known)

    def depth(self) -> tuple[int, int, int]:
        """Requests, rows and tokens that wait for an engine call."""
        with self._changed:
            return len(self._waiting), self._waiting.rows, self._waiting.tokens

    def stats(self) -> SchedulerStats:
        """A snapshot of the counters."""
        with self._changed:
            return replace(self._stats)

    def idle(self) -> bool:
        """Whether nothing waits, runs or is expected."""
        with self._changed:
            return not (self._waiting.rows or self._running or self._admission.rows)

    def running_s(self) -> float:
        """For how many seconds the oldest engine call has been running; 0 without one."""
        with self._changed:
            since = min((batch.began for batch in self._running), default=None)
        return 0.0 if since is None else self._clock() - since

    def _require_open(self) -> None:
        if self._shut is not None:
            raise self._shut()

    def _load(self) -> Load:
        """What there is to do; the lock is held."""
        return Load(
            self._clock(),
            self._waiting.rows,
            self._waiting.tokens,
            len(self._running),
            sum(batch.tokens for batch in self._running),
        )

    def _take_back(self, ticket: Ticket) -> None:
        """`take_back` while the lock is held."""
        if ticket.holds:
            ticket.holds = False
            self._admission.give_back(ticket)

    def _end(self, request: Request, outcome: Outcome) -> None:
        """Answer a request and drop its waiting rows; the lock is not held."""
        request.answer(outcome)
        if request.waiting:
            self._drop(request)

    def _end_each(
        self, find: Callable[[], Request | None], error: Callable[[], ServingError]
    ) -> None:
        """End the waiting requests that `find` gives, until it gives none; the lock is not held."""
        while True:
            with self._changed:
                request = find()
            if request is None:
                return
            self._end(request, error())

    def _drop(self, request: Request) -> None:
        """Take a request's waiting rows off the queue, a few under each hold of the lock."""
        more = True
        while more:
            with self._changed:
                more = self._waiting.drop(request, _ROWS_A_HOLD, self._clock())

    def _pause_s(self) -> float | None:
        """How long to wait before the next batch; None: until a row comes. The lock is held."""
        oldest, limits = self._waiting.oldest(), self._limits
        if oldest is None:
            return None
        if self._waiting.rows >= limits.max_rows or self._waiting.tokens >= limits.token_budget:
            return 0
        return max(0.0, oldest.submitted + self._window_s - self._clock())

    def _next_batch(self) -> Batch:
        """Take rows off the queue, but leave other lanes that are idle their share of them; the
        lock is held."""
        now = self._clock()
        idle = self._lanes - len(self._running)
        limits = self._limits.within(math.ceil(self._waiting.rows / idle))
        rows = self._waiting.take(limits, now, in_order=self._is_late(now))
        batch = Batch(rows, now, sum(row.length for row in rows))
        self._running.append(batch)
        return batch

    def _is_late(self, now: float) -> bool:
        """Whether all that waits may take longer than the first deadline allows."""
        first = self._waiting.first_deadline()
        if first is None:
            return False
        everything = self._waiting.tokens + self._limits.token_budget
        return now + self._admission.predicted_s(everything, self._load()) > first
