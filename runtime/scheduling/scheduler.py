"""The scheduler: rows of all waiting requests share the engine's calls.

Each of the engine's lanes has a thread. It takes the next row by fair queueing (`fairness`) and the
rows nearest to it in length, up to the batch limits (`request_queue`, `rows_by_length`). It runs
them (`calls`) and gives each request its share (`request`). Every request is answered: with its
outputs, with the engine's error, at its deadline, or when the model closes.

An engine with a device of its own need not wait for Python between two calls. Then more threads
than lanes take batches, and those ahead of the engine are laid out while it computes; the calls
themselves are made by threads that do nothing else (`engine_threads`). A batch is taken ahead only
when the rows of a full one wait: fewer are better off with those that come meanwhile.

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
from functools import partial
from typing import Any

from runtime.batch import BatchLimits
from runtime.errors import (
    DeviceLost,
    EngineThreadEnded,
    EngineUnreachable,
    ModelClosed,
    ServingError,
)
from runtime.postprocess import EngineCall, Floats
from runtime.scheduling.admission import QueueLimits
from runtime.scheduling.backlog import Backlog, Batch
from runtime.scheduling.calls import engine_call, run_call
from runtime.scheduling.engine_threads import EngineThreads
from runtime.scheduling.request import Scored

_log = logging.getLogger(__name__)

# How long `close` waits for running engine calls.
_CLOSE_PATIENCE_S = 5.0


def _nothing() -> None: ...


def _as_it_is(rows: Sequence[Any]) -> Sequence[Any]:
    return rows


class Scheduler(Backlog):
    """A bounded queue of rows in front of one engine, and the threads that work it off.

    `compute` turns n encodings into float32 [n] or [n, d]; up to `lanes` threads call it at the
    same time. With `prepare` it gets what that makes of them, of up to `ahead` full batches while
    all lanes compute. `queue` bounds what waits; an idle scheduler admits any request. `window_s`
    is the batching window: how long a row may wait for more rows while the engine is idle and the
    batch not full. `clock` gives seconds, deadlines too. `free` is called once, when `close` has
    ended all calls. `device_lost` says whether a call found that the device is lost, `unreachable`
    whether one could not reach the remote engine; who has seen it compute again resets that. Every
    method may be called from any thread.
    """

    def __init__(
        self,
        compute: Callable[[Any], Floats],
        limits: BatchLimits,
        queue: QueueLimits,
        window_s: float = 0.0,
        lanes: int = 1,
        clock: Callable[[], float] = time.monotonic,
        free: Callable[[], None] = _nothing,
        prepare: Callable[[Sequence[Any]], Any] = _as_it_is,
        ahead: int = 0,
    ) -> None:
        super().__init__(limits, queue, window_s, lanes, clock, ahead)
        self._compute = compute
        self._prepare = prepare
        self._free = free
        self.device_lost = False
        self.unreachable = False
        self._callback: Callable[[EngineCall], None] = lambda _: None
        self._threads = [
            threading.Thread(target=self._run, name=f"scheduler-{lane}", daemon=True)
            for lane in range(lanes + ahead)
        ]
        self._engine_threads = EngineThreads(lanes if ahead else 0)
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # no more threads: end those that have started
            self.end(ModelClosed)
            self._engine_threads.close()
            raise

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

    def alive(self) -> bool:
        """Whether all threads that call the engine are alive."""
        return all(thread.is_alive() for thread in self._threads) and self._engine_threads.alive()

    def close(self) -> bool:
        """Wait for running engine calls, then answer every request with ModelClosed. May be called
        again, and from several threads.

        False when a call did not end in time: its requests are answered, but the engine is still
        in use.
        """
        self.end(ModelClosed)
        patience_ends = time.monotonic() + _CLOSE_PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, patience_ends - time.monotonic()))
        self.fail_running(ModelClosed)
        if any(thread.is_alive() for thread in self._threads):
            return False
        with self._changed:
            free, self._free = self._free, _nothing
        self._engine_threads.close()
        free()
        return True

    def _run(self) -> None:
        """The thread of one lane. If anything but `close` ends it, every request is answered."""
        try:
            while (batch := self.take()) is not None:
                self._execute(batch)
        except BaseException:
            _log_safely(logging.CRITICAL, "the thread that calls the engine ended", trace=True)
            self.end(EngineThreadEnded)
            self.fail_running(EngineThreadEnded)

    def _execute(self, batch: Batch) -> None:
        result = run_call(partial(self._call, batch), batch.rows, self._shrink)
        self._engine_threads.over(batch.number)
        call = engine_call(batch.rows, batch.began, batch.ended)
        if result.error is None:
            try:
                self._callback(call)
            except BaseException:  # a broken callback must not end the thread
                _log_safely(logging.ERROR, "the engine call callback failed", trace=True)
        was_unreachable = self.unreachable
        self.device_lost = self.device_lost or isinstance(result.error, DeviceLost)
        self.unreachable = self.unreachable or isinstance(result.error, EngineUnreachable)
        outcomes = self.finish(batch, result, call)
        if self.device_lost:  # no later call can succeed
            self.end(DeviceLost)
        if isinstance(result.error, EngineThreadEnded):
            self.end(EngineThreadEnded)
        for error in {outcome for outcome in outcomes if isinstance(outcome, ServingError)}:
            # Logged loudly once: the watchdog polls an unreachable engine every second.
            level = logging.DEBUG if was_unreachable else logging.ERROR
            _log_safely(level, "engine call of %d rows failed: %s", len(batch.rows), error)

    def _call(self, batch: Batch, encodings: Sequence[Sized]) -> Floats:
        """Compute these rows of the batch, which are all of them or a half."""
        in_turn = partial(self._compute_in_turn, batch, self._prepare(encodings))
        return self._engine_threads.run(batch.number, in_turn) if self._ahead else in_turn()

    def _compute_in_turn(self, batch: Batch, prepared: Any) -> Floats:
        self.begin(batch)
        try:
            return self._compute(prepared)
        finally:
            batch.ended = self._clock()

    def _shrink(self, budget: int) -> None:
        _log_safely(
            logging.WARNING, "no memory for a call: they have at most %d tokens now", budget
        )
        self.shrink(budget)


def _log_safely(level: int, message: str, *given: object, trace: bool = False) -> None:
    """Log, and drop what a handler raises, so that it does not end the thread."""
    with suppress(BaseException):
        _log.log(level, message, *given, exc_info=trace)
