"""The scheduler: rows of all waiting requests share the engine's calls.

There is a thread for each of the engine's lanes. It takes a row of the request whose turn it is
(`fairness`) and the rows nearest to it in length up to the batch limits (`waiting`, `queue`), runs
them (`calls`), and gives each request its share (`request`). Every waiter is answered: with its
logits, with the engine's error, at its deadline, or when the model closes. Once all that waits may
take longer than the first deadline allows, the oldest goes first: `admission` has promised each
request no more than that it is in time in the order of arrival.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import Future
from contextlib import suppress

from runtime.batch import BatchLimits
from runtime.errors import DeviceLost, EngineAway, EngineLost, ModelClosed, ServingError
from runtime.postprocess import EngineCall, Floats
from runtime.scheduling.admission import QueueLimits, Ticket
from runtime.scheduling.backlog import Backlog, Batch
from runtime.scheduling.calls import Compute, engine_call, run_call
from runtime.scheduling.request import Scored
from runtime.scheduling.stats import SchedulerStats

_log = logging.getLogger(__name__)

# How long `close` waits for the engine call that runs.
_CLOSE_PATIENCE_S = 5.0


class Scheduler:
    """A bounded queue of rows in front of one engine.

    `compute` turns n encodings into float32 [n] or [n, d]; up to `lanes` threads call it at the
    same time. `queue` bounds what waits; a request to an idle scheduler is always admitted.
    `window_s` is how long a row may wait for company while the engine is idle and the batch not
    full. `clock` gives seconds; deadlines are on it. Every method may be called from any thread.
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
        self._lost = False
        self._away = False
        self._told: Callable[[EngineCall], None] = lambda _: None
        self._threads = [
            threading.Thread(target=self._run, name=f"scheduler-{lane}", daemon=True)
            for lane in range(lanes)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # no more threads are to be had; those that there are end
            self._backlog.shut(ModelClosed)
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
        """Keep room for a request while its texts become rows; `tokens` is an estimate.

        What cannot be admitted is refused here, before any work is done for it. Of a request that
        is not `for_engine` no rows will come: it takes room, but no time of the engine. Raises as
        `submit` does.
        """
        return self._backlog.admit(rows, tokens, deadline, caller, for_engine=for_engine)

    def submit(
        self, rows: Sequence[Sized], deadline: float | None, caller: str = ""
    ) -> "Future[Scored]":
        """Queue all rows or none; cancel the future to drop the rows that still wait.

        `deadline` is in seconds of the clock. Turns are counted by `caller`; all who name none are
        one caller. Raises Overloaded when the queue is full or the measured speed says that the
        answer would come after the deadline, ModelClosed after `close`, DeviceLost when an earlier
        call found the device gone, and EngineLost when a thread that calls the engine has ended.
        """
        with self.admit(len(rows), sum(map(len, rows)), deadline, caller) as ticket:
            return ticket.submit(rows)

    def tell(self, told: Callable[[EngineCall], None]) -> None:
        """Have `told` called with every engine call that succeeds, by the engine's thread."""
        self._told = told

    def pending(self) -> int:
        """Requests with rows that wait for an engine call."""
        requests, _, _ = self._backlog.depth()
        return requests

    def queue_depth(self) -> tuple[int, int]:
        """Rows and tokens that wait for an engine call."""
        _, rows, tokens = self._backlog.depth()
        return rows, tokens

    def bound(self, limits: BatchLimits) -> None:
        """Keep the batches that are taken from now on within `limits`."""
        self._backlog.bound(limits)

    @property
    def lost(self) -> bool:
        """Whether an engine call found the device gone for good."""
        return self._lost

    @property
    def away(self) -> bool:
        """Whether an engine call found nobody to compute it, since `returned` was called."""
        return self._away

    def returned(self) -> None:
        """The engine that was away has computed again."""
        self._away = False

    def follow(self, before: "Scheduler") -> None:
        """Predict with what was measured of the one that this one replaces."""
        self._backlog.follow(before._backlog)

    def stats(self) -> SchedulerStats:
        """A snapshot of the counters."""
        return self._backlog.stats()

    def idle(self) -> bool:
        """Whether nothing waits, runs or is expected."""
        return self._backlog.idle()

    def running_s(self) -> float:
        """For how many seconds the oldest engine call has been running; 0 without one."""
        return self._backlog.running_s()

    def alive(self) -> bool:
        """Whether all threads that call the engine are there."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self) -> bool:
        """Answer every waiter with ModelClosed, after the engine calls that run.

        False when one of them did not end in time: its waiters are answered all the same, but the
        engine is still in use.
        """
        self._backlog.shut(ModelClosed)
        patience_ends = time.monotonic() + _CLOSE_PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, patience_ends - time.monotonic()))
        self._backlog.fail_running(ModelClosed)
        if any(thread.is_alive() for thread in self._threads):
            return False
        # Its owner's method: a circle that would keep a replaced model until a collection.
        self._compute = _closed
        return True

    def _run(self) -> None:
        """The thread: whatever ends it but `close`, nobody is left waiting."""
        try:
            while (batch := self._backlog.take()) is not None:
                self._execute(batch)
        except BaseException:
            _say(logging.CRITICAL, "the thread that calls the engine ended", trace=True)
            self._backlog.shut(EngineLost)
            self._backlog.fail_running(EngineLost)

    def _execute(self, batch: Batch) -> None:
        result = run_call(self._compute, batch.rows, self._shrink)
        call = engine_call(batch.rows, batch.began, self._clock())
        if result.error is None:
            try:
                self._told(call)
            except BaseException:  # the observer's own fault, which ends no thread
                _say(logging.ERROR, "the observer of engine calls failed", trace=True)
        was_away = self._away
        self._lost = self._lost or isinstance(result.error, DeviceLost)
        self._away = self._away or isinstance(result.error, EngineAway)
        outcomes = self._backlog.finish(batch, result, call)
        if self._lost:  # no later call can succeed
            self._backlog.shut(DeviceLost)
        for error in {outcome for outcome in outcomes if isinstance(outcome, ServingError)}:
            # An engine that is away is asked again and again.
            level = logging.DEBUG if was_away else logging.ERROR
            _say(level, "engine call of %d rows failed: %s", len(batch.rows), error)

    def _shrink(self, budget: int) -> None:
        _say(logging.WARNING, "no memory for a call: they have at most %d tokens now", budget)
        self._backlog.shrink(budget)


def _say(level: int, message: str, *given: object, trace: bool = False) -> None:
    """Log; what a handler raises does not end the thread."""
    with suppress(BaseException):
        _log.log(level, message, *given, exc_info=trace)


def _closed(rows: Sequence[Sized]) -> Floats:  # noqa: ARG001
    raise ModelClosed
