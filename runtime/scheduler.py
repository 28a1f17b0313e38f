"""The scheduler: rows of all waiting requests share the engine's calls.

There is a thread for each of the engine's lanes. It takes a row of the request whose turn it is,
adds the rows nearest to it in length up to the batch limits, runs them, and gives each request its
share. Every waiter is answered: with its logits, with the engine's error, at its deadline, or when
the model closes.

Whose turn it is: that of the request which has had the fewest tokens computed since it came
(fair queueing with tokens for time, as Demers, Keshav and Shenker describe it, 1989), so that a
large request does not hold up small ones. A request that comes starts where the others are on
average, so that no stream of small ones holds up a large one for ever. Once all that waits may
take longer than the first deadline allows, the oldest goes first: admission has promised each
request no more than that it is in time in the order of arrival.
"""

import bisect
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import astuple, dataclass, field, replace

import numpy as np

from runtime.batch import BatchLimits, grow_batch
from runtime.errors import (
    DeadlineExceeded,
    DeviceLost,
    EngineAway,
    EngineError,
    EngineLost,
    ModelClosed,
    NonFiniteScore,
    OutOfMemory,
    Overloaded,
    ServingError,
    TooLate,
)
from runtime.postprocess import EngineCall, Floats
from runtime.text import Encoding
from runtime.throughput import Throughput

_log = logging.getLogger(__name__)

# How long `close` waits for the engine call that runs.
_CLOSE_PATIENCE_S = 5.0

Compute = Callable[[Sequence[Encoding]], Floats]


@dataclass(frozen=True)
class Scored:
    """One request's result: `outputs` float32 [n] (logits) or [n, d] (vectors) in the order
    submitted, its waiting times, and the engine calls that held rows of it."""

    outputs: Floats
    queue_ms: float
    engine_ms: float
    calls: tuple[EngineCall, ...] = ()


@dataclass(frozen=True)
class SchedulerStats:
    """Counters since the start. `inference_count` rows and `execution_count` engine calls that
    succeeded, `failed_count` rows whose call failed, `real_tokens` and `computed_tokens` (padding
    included) of successful calls, `engine_s` and `queue_s` seconds summed over calls and rows."""

    inference_count: int = 0
    execution_count: int = 0
    failed_count: int = 0
    real_tokens: int = 0
    computed_tokens: int = 0
    engine_s: float = 0.0
    queue_s: float = 0.0

    def __add__(self, other: "SchedulerStats") -> "SchedulerStats":
        """Both together."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return SchedulerStats(*(one + two for one, two in pairs))


@dataclass(frozen=True)
class QueueLimits:
    """What may wait for the engine: so many rows, and so many tokens."""

    rows: int
    tokens: int


@dataclass(eq=False)
class _Request:
    """A submitted request of `rows` rows; `open_rows` of them have no output yet and those in
    `waiting`, by their index, are in no engine call. `turn` grows with the tokens computed for it.
    `outputs` is made when the first of them arrive, whose shape nobody knows before."""

    future: "Future[Scored]"
    deadline: float | None
    submitted: float
    rows: int
    open_rows: int
    turn: float = 0.0
    waiting: "dict[int, _Row]" = field(default_factory=dict)
    outputs: Floats | None = None
    calls: list[EngineCall] = field(default_factory=list)


@dataclass(eq=False)
class _Row:
    request: _Request
    index: int
    encoding: Encoding
    number: int

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
class _Batch:
    """The rows of one engine call, which `began` at that time."""

    rows: list[_Row]
    began: float


class Scheduler:
    """A bounded queue of rows in front of one engine.

    `compute` turns n encodings into float32 [n] or [n, d]; up to `lanes` threads call it at the
    same time. `queue` bounds what waits; a request to an idle scheduler is always admitted.
    `window_s` is how long a row may wait for company while the engine is idle and the batch not
    full. `clock` gives seconds; deadlines are on it.
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
        self._limits = limits
        self._queue = queue
        self._window_s = window_s
        self._clock = clock
        self._changed = threading.Condition()
        self._by_length: list[_Row] = []
        # Requests with rows that wait, in the order of their arrival.
        self._requests: dict[_Request, None] = {}
        self._waiting_tokens = 0
        self._expected_rows = 0
        self._expected_tokens = 0
        self._running: list[_Batch] = []
        self._average_turn = 0.0
        self._next_number = 0
        self._closed = False
        self._lost = False
        self._away = False
        self._stats = SchedulerStats()
        self._told: Callable[[EngineCall], None] = lambda _: None
        self._throughput = Throughput()
        self._threads = [
            threading.Thread(target=self._run, name=f"scheduler-{lane}", daemon=True)
            for lane in range(lanes)
        ]
        for thread in self._threads:
            thread.start()

    @contextmanager
    def expecting(self, rows: int, tokens: int, deadline: float | None) -> Iterator[None]:
        """Keep room for a request while its texts become rows; `tokens` is an estimate.

        What cannot be admitted is refused here, before any work is done for it. Raises as
        `submit` does, which is to be called after the block and has the last word.
        """
        with self._changed:
            self._admit(rows, tokens, deadline, exact=False)
            self._expected_rows += rows
            self._expected_tokens += tokens
        try:
            yield
        finally:
            with self._changed:
                self._expected_rows -= rows
                self._expected_tokens -= tokens

    def submit(self, rows: Sequence[Encoding], deadline: float | None) -> "Future[Scored]":
        """Queue all rows or none; cancel the future to drop the rows that still wait.

        `deadline` is in seconds of the clock. Raises Overloaded when the queue is full or
        the measured speed says that the answer would come after the deadline, ModelClosed after
        `close`, DeviceLost when an earlier call found the device gone, and EngineLost when the
        thread that calls the engine has ended.
        """
        request = _Request(
            future=Future(),
            deadline=deadline,
            submitted=self._clock(),
            rows=len(rows),
            open_rows=len(rows),
        )
        if not rows:
            nothing = np.empty(0, dtype=np.float32)
            request.future.set_result(Scored(nothing, queue_ms=0.0, engine_ms=0.0))
            return request.future
        with self._changed:
            self._admit(len(rows), sum(map(len, rows)), deadline)
            request.turn = self._average_turn
            # The longest first: when the last rows are short, all lanes end at about the same time.
            for index, encoding in sorted(enumerate(rows), key=lambda row: -len(row[1])):
                self._enqueue(_Row(request, index, encoding, self._next_number))
                self._next_number += 1
            self._changed.notify_all()
        request.future.add_done_callback(lambda f: self._forget(request) if f.cancelled() else None)
        return request.future

    def tell(self, told: Callable[[EngineCall], None]) -> None:
        """Have `told` called with every engine call that succeeds, by the engine's thread."""
        self._told = told

    def pending(self) -> int:
        """Requests with rows that wait for an engine call."""
        with self._changed:
            return len(self._requests)

    def bound(self, limits: BatchLimits) -> None:
        """Keep the batches that are taken from now on within `limits`."""
        with self._changed:
            self._limits = limits

    def queue_depth(self) -> tuple[int, int]:
        """Rows and tokens that wait for an engine call."""
        with self._changed:
            return len(self._by_length), self._waiting_tokens

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
        with before._changed:
            known = deepcopy(before._throughput)
        with self._changed:
            self._throughput.follow(known)

    def stats(self) -> SchedulerStats:
        """A snapshot of the counters."""
        with self._changed:
            return self._stats

    def idle(self) -> bool:
        """Whether nothing waits, runs or is expected."""
        with self._changed:
            return not (self._requests or self._running or self._expected_rows)

    def running_s(self) -> float:
        """For how many seconds the oldest engine call has been running; 0 without one."""
        with self._changed:
            since = min((batch.began for batch in self._running), default=None)
        return 0.0 if since is None else self._clock() - since

    def alive(self) -> bool:
        """Whether all threads that call the engine are there."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self) -> bool:
        """Answer every waiter with ModelClosed, after the engine calls that run.

        False when one of them did not end in time: its waiters are answered all the same, but the
        engine is still in use.
        """
        with self._changed:
            self._closed = True
            for request in {row.request for row in self._by_length}:
                self._fail(request, ModelClosed())
            self._changed.notify_all()
        patience_ends = time.monotonic() + _CLOSE_PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, patience_ends - time.monotonic()))
        with self._changed:
            for request in self._served():
                self._fail(request, ModelClosed())
        if any(thread.is_alive() for thread in self._threads):
            return False
        # Its owner's method: a circle that would keep a replaced model until a collection.
        self._compute = _closed
        return True

    def _admit(self, rows: int, tokens: int, deadline: float | None, *, exact: bool = True) -> None:
        """Raise unless a request of that size may wait; the lock is held.

        An estimate of its tokens is good enough for a full queue, but not for saying that the
        request itself takes too long.
        """
        if self._closed:
            raise ModelClosed
        if self._lost:
            raise DeviceLost
        if not self.alive():
            raise EngineLost
        now = self._clock()
        waiting_rows = len(self._by_length) + self._expected_rows
        waiting_tokens = self._waiting_tokens + self._expected_tokens
        running_tokens = sum(len(row.encoding) for batch in self._running for row in batch.rows)
        backlog_s = self._predicted_s(waiting_tokens + running_tokens, now)
        for waiting, brought, room, unit in (
            (waiting_rows, rows, self._queue.rows, "rows"),
            (waiting_tokens, tokens, self._queue.tokens, "tokens"),
        ):
            if waiting_rows and waiting + brought > room:
                raise Overloaded(
                    f"the queue holds {waiting} {unit} and has room for {room}; "
                    f"this request brings {brought}",
                    retry_after_s=max(1.0, backlog_s),
                )
        if deadline is None:
            return
        if deadline <= now:
            raise DeadlineExceeded
        left_s = deadline - now
        alone_s = self._predicted_s(tokens, now) if exact else 0.0
        if alone_s > left_s:
            raise TooLate(
                f"the answer would take {alone_s:.0f} s alone, longer than the request's deadline; "
                "send fewer or shorter passages, or raise NIM_REQUEST_TIMEOUT_S",
                retry_after_s=max(1.0, backlog_s),
            )
        needed_s = backlog_s + alone_s
        if needed_s > left_s:
            raise Overloaded(
                f"the answer would take {needed_s:.0f} s for what waits before it and itself, "
                "longer than the request's deadline; send it again",
                retry_after_s=max(1.0, backlog_s),
            )

    def _predicted_s(self, tokens: int, now: float) -> float:
        """Seconds that `tokens` take at least; the lock is held."""
        busy = bool(self._running or self._requests)
        return self._throughput.predicted_s(tokens, now, busy=busy)

    def _enqueue(self, row: _Row) -> None:
        bisect.insort(self._by_length, row, key=_Row.key)
        row.request.waiting[row.index] = row
        self._requests[row.request] = None
        self._waiting_tokens += len(row.encoding)

    def _dequeue(self, rows: Sequence[_Row]) -> None:
        """Count the rows out, wherever they go; the lock is held."""
        for row in rows:
            del row.request.waiting[row.index]
            self._waiting_tokens -= len(row.encoding)
            if not row.request.waiting:
                del self._requests[row.request]

    def _forget(self, request: _Request) -> None:
        with self._changed:
            self._dequeue(list(request.waiting.values()))
            self._by_length = [row for row in self._by_length if row.request is not request]

    def _fail(self, request: _Request, error: ServingError) -> None:
        """Answer with `error` and drop the request's waiting rows; the lock is held."""
        self._forget(request)
        _answer(request.future, error)

    def _run(self) -> None:
        """The thread: whatever ends it but `close`, nobody is left waiting."""
        try:
            self._work()
        except BaseException:
            _log.critical("the thread that calls the engine ended", exc_info=True)
            with self._changed:
                for request in self._served() | set(self._requests):
                    self._fail(request, EngineLost())

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (pause_s := self._pause_s()) != 0:
                    self._changed.wait(pause_s)
                if self._closed:
                    return
                batch = self._next_batch()
            if batch is not None:
                self._execute(batch)

    def _served(self) -> set[_Request]:
        """Requests with rows in the engine; the lock is held."""
        return {row.request for batch in self._running for row in batch.rows}

    def _pause_s(self) -> float | None:
        """How long to wait before the next batch; None: until a row comes. The lock is held."""
        if not self._requests:
            return None
        limits = self._limits
        if len(self._by_length) >= limits.max_rows or self._waiting_tokens >= limits.token_budget:
            return 0
        oldest = next(iter(self._requests))
        return max(0.0, oldest.submitted + self._window_s - self._clock())

    def _next_batch(self) -> _Batch | None:
        """Take the rows of the next engine call off the queue, but leave other lanes that are idle
        their share of them; the lock is held."""
        self._drop_expired()
        if not self._requests:
            return None
        chosen = self._choose()
        first = next(iter(chosen.waiting.values()))
        start = bisect.bisect_left(self._by_length, first.key(), key=_Row.key)
        lengths = [len(row.encoding) for row in self._by_length]
        idle = len(self._threads) - len(self._running)
        share = min(self._limits.max_rows, math.ceil(len(lengths) / idle))
        low, high = grow_batch(lengths, start, replace(self._limits, max_rows=share))
        batch = _Batch(self._by_length[low:high], began=self._clock())
        del self._by_length[low:high]
        self._take_turns(batch.rows)
        self._dequeue(batch.rows)
        self._running.append(batch)
        return batch

    def _drop_expired(self) -> None:
        now = self._clock()
        for request in [r for r in self._requests if r.deadline is not None and r.deadline <= now]:
            self._fail(request, DeadlineExceeded())

    def _choose(self) -> _Request:
        """The request whose row comes next; see the module's docstring."""
        now = self._clock()
        deadlines = [r.deadline for r in self._requests if r.deadline is not None]
        everything_s = self._predicted_s(self._waiting_tokens + self._limits.token_budget, now)
        if deadlines and now + everything_s > min(deadlines):
            return next(iter(self._requests))
        return min(self._requests, key=lambda request: request.turn)

    def _take_turns(self, batch: Sequence[_Row]) -> None:
        """Charge each request its tokens, and the average what each has had of them."""
        for row in batch:
            row.request.turn += len(row.encoding)
        tokens = sum(len(row.encoding) for row in batch)
        self._average_turn += tokens / len(self._requests)

    def _execute(self, batch: _Batch) -> None:
        rows = batch.rows
        error: ServingError | None = None
        outputs = np.empty(0, dtype=np.float32)
        try:
            outputs = self._compute_fitting([row.encoding for row in rows])
            if len(outputs) != len(rows):
                raise EngineError(f"found {len(outputs)} outputs for {len(rows)} rows")
        except ServingError as known:
            error = known
        except (
            Exception
        ) as unexpected:  # one bad call must not end the thread: waiters depend on it
            error = EngineError(f"{type(unexpected).__name__} in the engine: {unexpected}")
            error.__cause__ = unexpected
        call = _engine_call(rows, batch.began, self._clock())
        if error is None:
            self._told(call)
        with self._changed:
            self._count(rows, call, len(self._running), failed=error is not None)
            if error is None:
                error = self._deliver(rows, outputs, call)
            else:
                for request in {row.request for row in rows}:
                    self._fail(request, error)
            if isinstance(error, DeviceLost):
                self._lose(error)
            was_away = self._away
            if isinstance(error, EngineAway):
                self._away = True
            # Last: whatever fails before, `_run` finds who waits for this call.
            self._running.remove(batch)
        if error is not None:  # outside the lock: writing a log may block
            # An engine that is away is asked again and again.
            level = logging.DEBUG if was_away else logging.ERROR
            _log.log(level, "engine call of %d rows failed: %s", len(rows), error)

    def _compute_fitting(self, rows: Sequence[Encoding]) -> Floats:
        """Compute all rows; where the device has no memory for them at once, by halves.

        Later batches are cut to what fitted, until `bound`: finding that again each time costs a
        failed call.
        """
        try:
            return self._compute(rows)
        except OutOfMemory:
            if len(rows) == 1:
                raise
        half = len(rows) // 2
        budget = max(1, half * max(map(len, rows)))
        _log.warning("no memory for %d rows: calls have at most %d tokens now", len(rows), budget)
        with self._changed:
            budget = min(budget, self._limits.token_budget)
            self._limits = replace(self._limits, token_budget=budget)
        return np.concatenate(
            [self._compute_fitting(rows[:half]), self._compute_fitting(rows[half:])]
        )

    def _lose(self, error: DeviceLost) -> None:
        """Answer everyone who waits: no later call can succeed. The lock is held."""
        self._lost = True
        for request in list(self._requests):
            self._fail(request, error)

    def _deliver(
        self, batch: list[_Row], outputs: Floats, call: EngineCall
    ) -> NonFiniteScore | None:
        """Give the rows their outputs and answer the requests that are complete.

        Only the requests that own a row with NaN or infinity fail: their neighbours' scores are
        sound. Returns their error.
        """
        broken = [not np.isfinite(output).all() for output in outputs]
        error = NonFiniteScore(sum(broken)) if any(broken) else None
        for row, output, bad in zip(batch, outputs, broken, strict=True):
            row.take(output)
            if call not in row.request.calls[-1:]:
                row.request.calls.append(call)
            if bad and error is not None:
                self._fail(row.request, error)
        for request in {row.request for row in batch}:
            if request.open_rows or request.outputs is None:
                continue
            started = request.calls[0].began
            scored = Scored(
                outputs=request.outputs,
                queue_ms=(started - request.submitted) * 1e3,
                engine_ms=(call.ended - started) * 1e3,
                calls=tuple(request.calls),
            )
            _answer(request.future, scored)
        return error

    def _count(self, batch: list[_Row], call: EngineCall, beside: int, *, failed: bool) -> None:
        """Count a call, one of `beside` that shared the machine; the lock is held."""
        if failed:
            self._stats = replace(self._stats, failed_count=self._stats.failed_count + len(batch))
            return
        waited = sum(call.began - row.request.submitted for row in batch)
        seconds = call.ended - call.began
        self._throughput.record(call.real_tokens, seconds / beside, call.ended)
        self._stats = replace(
            self._stats,
            inference_count=self._stats.inference_count + len(batch),
            execution_count=self._stats.execution_count + 1,
            real_tokens=self._stats.real_tokens + call.real_tokens,
            computed_tokens=self._stats.computed_tokens + call.computed_tokens,
            engine_s=self._stats.engine_s + seconds,
            queue_s=self._stats.queue_s + waited,
        )


def _engine_call(batch: Sequence[_Row], began: float, ended: float) -> EngineCall:
    lengths = [len(row.encoding) for row in batch]
    return EngineCall(began, ended, len(batch), sum(lengths), len(batch) * max(lengths))


def _closed(rows: Sequence[Encoding]) -> Floats:  # noqa: ARG001
    raise ModelClosed


def _answer(future: "Future[Scored]", outcome: Scored | ServingError) -> None:
    """Give the waiter its outcome; one that was cancelled or answered before stays as it is."""
    try:
        if isinstance(outcome, ServingError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:
        pass
