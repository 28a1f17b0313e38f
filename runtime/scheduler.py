"""The scheduler: rows of all waiting requests share the engine's calls.

One thread owns the engine. It takes the oldest waiting row, adds the rows nearest to it in
length up to the batch limits, and runs them. While others wait it goes on with those at once, and
a second thread answers the requests that are complete meanwhile. Every waiter is answered: with its
logits, with the engine's error, at its deadline, or when the model closes.
"""

import bisect
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace

import numpy as np

from runtime.batch import BatchLimits, grow_batch
from runtime.engines import Arrays
from runtime.errors import (
    DeadlineExceeded,
    EngineError,
    ModelClosed,
    NonFiniteScore,
    Overloaded,
    ServingError,
)
from runtime.postprocess import Floats
from runtime.text import Encoding
from runtime.throughput import Throughput

_log = logging.getLogger(__name__)

# How long `close` waits for the engine call that runs.
_CLOSE_PATIENCE_S = 5.0

LayOut = Callable[[Sequence[Encoding]], Arrays]
Compute = Callable[[Arrays, int], Floats]


@dataclass(frozen=True)
class Scored:
    """One request's result: `outputs` float32 [n] (logits) or [n, d] (vectors) in the order
    submitted, and its waiting times."""

    outputs: Floats
    queue_ms: float
    engine_ms: float


@dataclass
class SchedulerStats:
    """Counters since the start. `inference_count` rows and `execution_count` engine calls that
    succeeded, `failed_count` rows whose call failed, `real_tokens` and `computed_tokens` (padding
    included) of successful calls. Seconds: `queue_s` summed over rows; over calls `layout_s` from
    when rows waited and the thread was free, `engine_s` in the engine, `answer_s` from there until
    the requests had their outputs."""

    inference_count: int = 0
    execution_count: int = 0
    failed_count: int = 0
    real_tokens: int = 0
    computed_tokens: int = 0
    layout_s: float = 0.0
    engine_s: float = 0.0
    answer_s: float = 0.0
    queue_s: float = 0.0


@dataclass(eq=False)
class _Request:
    """A submitted request of `rows` rows; `open_rows` of them have no output yet. `outputs` is
    made when the first of them arrive, whose shape nobody knows before."""

    future: "Future[Scored]"
    deadline: float | None
    submitted: float
    rows: int
    open_rows: int
    outputs: Floats | None = None
    started: float | None = None

    def answer(self, finished: float) -> None:
        """Give the waiter all outputs, the last of which were there at `finished`."""
        assert self.outputs is not None
        assert self.started is not None
        scored = Scored(
            outputs=self.outputs,
            queue_ms=(self.started - self.submitted) * 1e3,
            engine_ms=(finished - self.started) * 1e3,
        )
        _answer(self.future, scored)


@dataclass(eq=False)
class _Row:
    request: _Request
    index: int
    encoding: Encoding
    number: int = field(default=0)

    def take(self, output: Floats) -> None:
        """Store this row's share of an engine call."""
        if self.request.outputs is None:
            shape = (self.request.rows, *output.shape)
            self.request.outputs = np.empty(shape, dtype=np.float32)
        self.request.outputs[self.index] = output
        self.request.open_rows -= 1

    def key(self) -> tuple[int, int]:
        """Rows wait in the order of their length, then of their arrival."""
        return len(self.encoding), self.number


@dataclass(eq=False)
class _Call:
    """One engine call: when the thread was `free` for it, when the engine `started` and
    `finished`, and its `outputs` or `error`."""

    batch: list[_Row]
    free: float
    started: float
    finished: float = 0.0
    outputs: Floats = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    error: ServingError | None = None


class Scheduler:
    """A bounded queue of rows in front of one engine.

    `lay_out` turns n encodings into the engine's arrays, `compute` these, told n, into float32 [n]
    or [n, d]; both are called from one thread only.
    `queue_rows` bounds the rows that wait; a request to an idle scheduler is always admitted.
    `window_s` is how long a row may wait for company while the engine is idle and the batch not
    full.
    """

    def __init__(
        self,
        lay_out: LayOut,
        compute: Compute,
        limits: BatchLimits,
        queue_rows: int,
        window_s: float = 0.0,
    ) -> None:
        self._lay_out = lay_out
        self._compute = compute
        self._limits = limits
        self._queue_rows = queue_rows
        self._window_s = window_s
        self._changed = threading.Condition()
        self._by_length: list[_Row] = []
        self._by_age: OrderedDict[int, _Row] = OrderedDict()
        self._waiting_tokens = 0
        self._running: list[_Row] = []
        self._next_number = 0
        self._closed = False
        self._stats = SchedulerStats()
        self._throughput = Throughput()
        self._complete: queue.SimpleQueue[tuple[list[_Request], float] | None]
        self._complete = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._answerer = threading.Thread(target=self._answer_others, name="answers", daemon=True)
        self._thread.start()
        self._answerer.start()

    def submit(self, rows: Sequence[Encoding], deadline: float | None) -> "Future[Scored]":
        """Queue all rows or none; cancel the future to drop the rows that still wait.

        `deadline` is in seconds of time.monotonic(). Raises Overloaded when the queue is full or
        the measured speed says that the answer would come after the deadline.
        """
        request = _Request(
            future=Future(),
            deadline=deadline,
            submitted=time.monotonic(),
            rows=len(rows),
            open_rows=len(rows),
        )
        if not rows:
            nothing = np.empty(0, dtype=np.float32)
            request.future.set_result(Scored(nothing, queue_ms=0.0, engine_ms=0.0))
            return request.future
        with self._changed:
            if self._closed:
                raise ModelClosed
            self._admit(len(rows), sum(map(len, rows)), deadline)
            for index, encoding in enumerate(rows):
                self._enqueue(_Row(request, index, encoding))
            self._changed.notify()
        request.future.add_done_callback(lambda f: self._forget(request) if f.cancelled() else None)
        return request.future

    def bound(self, limits: BatchLimits) -> None:
        """Keep the batches that are taken from now on within `limits`."""
        with self._changed:
            self._limits = limits

    def queue_depth(self) -> tuple[int, int]:
        """Rows and tokens that wait for an engine call."""
        with self._changed:
            return len(self._by_length), self._waiting_tokens

    def stats(self) -> SchedulerStats:
        """A snapshot of the counters."""
        with self._changed:
            return replace(self._stats)

    def close(self) -> bool:
        """Answer every waiter with ModelClosed, after the engine call that runs.

        False when that call did not end in time: its waiters are answered all the same, but the
        engine is still in use.
        """
        with self._changed:
            self._closed = True
            for request in {row.request for row in self._by_length}:
                self._fail(request, ModelClosed())
            self._changed.notify()
        self._thread.join(_CLOSE_PATIENCE_S)
        self._complete.put(None)
        self._answerer.join(_CLOSE_PATIENCE_S)
        with self._changed:
            for request in {row.request for row in self._running}:
                self._fail(request, ModelClosed())
        return not self._thread.is_alive()

    def _admit(self, rows: int, tokens: int, deadline: float | None) -> None:
        now = time.monotonic()
        waiting = len(self._by_length)
        running_tokens = sum(len(row.encoding) for row in self._running)
        backlog_s = self._throughput.predicted_s(self._waiting_tokens + running_tokens, now)
        if waiting and waiting + rows > self._queue_rows:
            raise Overloaded(
                f"the queue holds {waiting} rows and has room for {self._queue_rows}; "
                f"this request brings {rows}",
                retry_after_s=max(1.0, backlog_s),
            )
        if deadline is None:
            return
        if deadline <= now:
            raise DeadlineExceeded
        needed_s = backlog_s + self._throughput.predicted_s(tokens, now)
        if needed_s > deadline - now:
            raise Overloaded(
                f"the answer would take {needed_s:.0f} s, longer than the request's deadline; "
                "send fewer or shorter passages, or raise NIM_REQUEST_TIMEOUT_S",
                retry_after_s=max(1.0, backlog_s),
            )

    def _enqueue(self, row: _Row) -> None:
        row.number = self._next_number
        self._next_number += 1
        bisect.insort(self._by_length, row, key=_Row.key)
        self._by_age[row.number] = row
        self._waiting_tokens += len(row.encoding)

    def _dequeue(self, rows: Sequence[_Row]) -> None:
        for row in rows:
            del self._by_age[row.number]
            self._waiting_tokens -= len(row.encoding)

    def _forget(self, request: _Request) -> None:
        with self._changed:
            gone = [row for row in self._by_length if row.request is request]
            self._dequeue(gone)
            self._by_length = [row for row in self._by_length if row.request is not request]

    def _fail(self, request: _Request, error: ServingError) -> None:
        """Answer with `error` and drop the request's waiting rows; the lock is held."""
        self._forget(request)
        _answer(request.future, error)

    def _run(self) -> None:
        free = time.monotonic()
        while True:
            with self._changed:
                self._running = []
                while not self._closed and (pause_s := self._pause_s()) != 0:
                    self._changed.wait(pause_s)
                    free = time.monotonic()
                if self._closed:
                    return
                batch = self._next_batch()
            if batch:
                free = self._execute(batch, free)

    def _answer_others(self) -> None:
        while (complete := self._complete.get()) is not None:
            self._answer_all(*complete)

    def _pause_s(self) -> float | None:
        """How long to wait before the next batch; None: until a row comes. The lock is held."""
        if not self._by_age:
            return None
        limits = self._limits
        if len(self._by_age) >= limits.max_rows or self._waiting_tokens >= limits.token_budget:
            return 0
        oldest = next(iter(self._by_age.values()))
        return max(0.0, oldest.request.submitted + self._window_s - time.monotonic())

    def _next_batch(self) -> list[_Row]:
        """Take the oldest row and its neighbours off the queue; the lock is held."""
        now = time.monotonic()
        oldest = next(iter(self._by_age.values()))
        if oldest.request.deadline is not None and oldest.request.deadline <= now:
            self._fail(oldest.request, DeadlineExceeded())
            return []
        start = bisect.bisect_left(self._by_length, oldest.key(), key=_Row.key)
        lengths = [len(row.encoding) for row in self._by_length]
        first, last = grow_batch(lengths, start, self._limits)
        batch = self._by_length[first:last]
        del self._by_length[first:last]
        self._dequeue(batch)
        self._running = batch
        return batch

    def _execute(self, batch: list[_Row], free: float) -> float:
        """Run the batch and have it settled; returns when the engine ended."""
        call = _Call(batch, free, started=free)
        try:
            arrays = self._lay_out([row.encoding for row in batch])
            call.started = time.monotonic()
            call.outputs = self._compute(arrays, len(batch))
            if len(call.outputs) != len(batch):
                raise EngineError(f"found {len(call.outputs)} outputs for {len(batch)} rows")
        except ServingError as known:
            call.error = known
        except (
            Exception
        ) as unexpected:  # one bad call must not end the thread: waiters depend on it
            call.error = EngineError(f"{type(unexpected).__name__} in the engine: {unexpected}")
            call.error.__cause__ = unexpected
        call.finished = time.monotonic()
        complete = self._settle(call)
        if complete and self._by_age:
            # Who is answered wants the interpreter at once: the next engine call goes first.
            self._complete.put((complete, call.finished))
        else:
            self._answer_all(complete, call.finished)
        return call.finished

    def _settle(self, call: _Call) -> list[_Request]:
        """Count the call and give its rows their outputs; returns the requests that have all."""
        with self._changed:
            self._count(call)
            error = call.error
            if error is None:
                error = self._deliver(call)
            else:
                for request in {row.request for row in call.batch}:
                    self._fail(request, error)
        if error is not None:  # outside the lock: writing a log may block
            _log.error("engine call of %d rows failed: %s", len(call.batch), error)
        return [r for r in {row.request for row in call.batch} if not r.open_rows]

    def _answer_all(self, requests: list[_Request], finished: float) -> None:
        for request in requests:
            request.answer(finished)
        with self._changed:
            spent = time.monotonic() - finished
            self._stats.answer_s += spent

    def _deliver(self, call: _Call) -> NonFiniteScore | None:
        """Give the rows their outputs; the lock is held.

        Only the requests that own a row with NaN or infinity fail: their neighbours' scores are
        sound. Returns their error.
        """
        rows = call.outputs.reshape(len(call.batch), -1)
        broken: list[bool] = np.logical_not(np.isfinite(rows).all(axis=1)).tolist()
        error = NonFiniteScore(sum(broken)) if any(broken) else None
        for row, output, bad in zip(call.batch, call.outputs, broken, strict=True):
            row.take(output)
            if row.request.started is None:
                row.request.started = call.started
            if bad and error is not None:
                self._fail(row.request, error)
        return error

    def _count(self, call: _Call) -> None:
        batch = call.batch
        if call.error is not None:
            self._stats.failed_count += len(batch)
            return
        lengths = [len(row.encoding) for row in batch]
        waited = sum(call.started - row.request.submitted for row in batch)
        self._throughput.record(sum(lengths), call.finished - call.free, call.finished)
        stats = self._stats
        stats.inference_count += len(batch)
        stats.execution_count += 1
        stats.real_tokens += sum(lengths)
        stats.computed_tokens += len(batch) * max(lengths)
        stats.layout_s += call.started - call.free
        stats.engine_s += call.finished - call.started
        stats.queue_s += waited


def _answer(future: "Future[Scored]", outcome: Scored | ServingError) -> None:
    """Give the waiter its outcome; one that was cancelled or answered before stays as it is."""
    try:
        if isinstance(outcome, ServingError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:
        pass
