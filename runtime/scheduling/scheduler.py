"""The scheduler: rows of all waiting requests share the engine's calls.

Each of the engine's lanes has a thread. It takes the next row by fair queueing (`fairness`) and the
rows nearest to it in length, up to the batch limits (`request_queue`, `rows_by_length`). It runs
them (`calls`) and gives each request its share (`request`). Every request is answered: with its
outputs, with the engine's error, at its deadline, or when the model closes.

When the first deadline may be missed, the oldest request goes first instead. Admission control
(`admission`) accepts a request if it would be in time in order of arrival, so that order must be
kept then.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import Future
from contextlib import suppress

from runtime.batch import BatchLimits
from runtime.errors import (
    DeviceLost,
    EngineThreadEnded,
    EngineUnreachable,
    ModelClosed,
    ServingError,
)
from runtime.postprocess import EngineCall
from runtime.scheduling.admission import QueueLimits, Ticket
from runtime.scheduling.backlog import Backlog, Batch
from runtime.scheduling.calls import Compute, engine_call, run_call
from runtime.scheduling.request import Scored
from runtime.scheduling.stats import SchedulerStats

_log = logging.getLogger(__name__)

# How long `close` waits for running engine calls.
_CLOSE_PATIENCE_S = 5.0


class Scheduler:
    """A bounded queue of rows in front of one engine.

    `compute` turns n encodings into float32 [n] or [n, d]; up to `lanes` threads call it at the
    same time. `queue` bounds what waits; an idle scheduler admits any request. `window_s` is the
    batching window: how long a row may wait for more rows while the engine is idle and the batch
    not full. `clock` gives seconds, deadlines too. Every method may be called from any thread.
    """

    def __init__(
        self,
        compute: Compute,
        limits: BatchLimits,
        queue: QueueLimits,
        window_s: float = 0.0,
        lanes: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compute = compute
        self._clock = clock
        self._backlog = Backlog(limits, queue, window_s, lanes, clock)
        self._device_lost = False
        self._unreachable = False
        self._callback: Callable[[EngineCall], None] = lambda _: None
        self._threads = [
            threading.Thread(target=self._run, name=f"scheduler-{lane}", daemon=True)
            for lane in range(lanes)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # no more threads: end those that have started
            self._backlog.close(ModelClosed)
            raise

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

        `tokens` is an estimate. A request that cannot be admitted is refused here, before any work
        is done for it. One that is not `for_engine` takes capacity but no engine time. Raises as
        `submit` does.
        """
        return self._backlog.admit(rows, tokens, deadline, caller, for_engine=for_engine)

    def submit(
        self, rows: Sequence[Sized], deadline: float | None, caller: str = ""
    ) -> "Future[Scored]":
        """Queue all rows or none; cancel the future to drop the rows that still wait.

        `deadline` is in seconds of the clock. Fair queueing counts by `caller`; requests without
        one are one caller. Raises Overloaded when the queue is full, or when the measured speed
        puts the answer after the deadline; ModelClosed after `close`; DeviceLost when an earlier
        call lost the device; EngineThreadEnded when a thread that calls the engine has ended.
        """
        with self.admit(len(rows), sum(map(len, rows)), deadline, caller) as ticket:
            return ticket.submit(rows)

    def on_engine_call(self, callback: Callable[[EngineCall], None]) -> None:
        """Call `callback` after every successful engine call, in the thread that made it."""
        self._callback = callback

    def pending(self) -> int:
        """Requests with rows that wait for an engine call."""
        requests, _, _ = self._backlog.depth()
        return requests

    def queue_depth(self) -> tuple[int, int]:
        """Rows and tokens that wait for an engine call."""
        _, rows, tokens = self._backlog.depth()
        return rows, tokens

    def set_limits(self, limits: BatchLimits) -> None:
        """Apply `limits` to batches from now on."""
        self._backlog.set_limits(limits)

    @property
    def device_lost(self) -> bool:
        """Whether an engine call found that the device is lost."""
        return self._device_lost

    @property
    def unreachable(self) -> bool:
        """Whether a call could not reach the remote engine, since `mark_reachable`."""
        return self._unreachable

    def mark_reachable(self) -> None:
        """Record that the remote engine has computed again."""
        self._unreachable = False

    def inherit_estimates(self, before: "Scheduler") -> None:
        """Start from the throughput that `before`, the replaced one, has measured."""
        self._backlog.inherit_estimates(before._backlog)

    def predicted_s(self, tokens: int) -> float:
        """The least seconds that `tokens` take; 0 while nothing was measured."""
        return self._backlog.predicted_s(tokens)

    def stats(self) -> SchedulerStats:
        """A snapshot of the counters."""
        return self._backlog.stats()

    def idle(self) -> bool:
        """Whether no row waits or runs, and no ticket holds capacity."""
        return self._backlog.idle()

    def running_s(self) -> float:
        """Seconds that the oldest running engine call has taken so far; 0 without one."""
        return self._backlog.running_s()

    def alive(self) -> bool:
        """Whether all threads that call the engine are alive."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self) -> bool:
        """Wait for running engine calls, then answer every request with ModelClosed.

        False when a call did not end in time: its requests are answered, but the engine is still
        in use.
        """
        self._backlog.close(ModelClosed)
        patience_ends = time.monotonic() + _CLOSE_PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, patience_ends - time.monotonic()))
        self._backlog.fail_running(ModelClosed)
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        """The thread of one lane. If anything but `close` ends it, every request is answered."""
        try:
            while (batch := self._backlog.take()) is not None:
                self._execute(batch)
        except BaseException:
            _log_safely(logging.CRITICAL, "the thread that calls the engine ended", trace=True)
            self._backlog.close(EngineThreadEnded)
            self._backlog.fail_running(EngineThreadEnded)

    def _execute(self, batch: Batch) -> None:
        result = run_call(self._compute, batch.rows, self._shrink)
        call = engine_call(batch.rows, batch.began, self._clock())
        if result.error is None:
            try:
                self._callback(call)
            except BaseException:  # a broken callback must not end the thread
                _log_safely(logging.ERROR, "the engine call callback failed", trace=True)
        was_unreachable = self._unreachable
        self._device_lost = self._device_lost or isinstance(result.error, DeviceLost)
        self._unreachable = self._unreachable or isinstance(result.error, EngineUnreachable)
        outcomes = self._backlog.finish(batch, result, call)
        if self._device_lost:  # no later call can succeed
            self._backlog.close(DeviceLost)
        for error in {outcome for outcome in outcomes if isinstance(outcome, ServingError)}:
            # Logged loudly once: the watchdog polls an unreachable engine every second.
            level = logging.DEBUG if was_unreachable else logging.ERROR
            _log_safely(level, "engine call of %d rows failed: %s", len(batch.rows), error)

    def _shrink(self, budget: int) -> None:
        _log_safely(
            logging.WARNING, "no memory for a call: they have at most %d tokens now", budget
        )
        self._backlog.shrink(budget)


def _log_safely(level: int, message: str, *given: object, trace: bool = False) -> None:
    """Log, and drop what a handler raises, so that it does not end the thread."""
    with suppress(BaseException):
        _log.log(level, message, *given, exc_info=trace)
