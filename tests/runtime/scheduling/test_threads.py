"""Nothing that others put into a scheduler's thread ends it."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from runtime.errors import EngineError, NonFiniteScore
from runtime.postprocess import Floats
from runtime.scheduling.scheduler import Scheduler
from runtime.text import Encoding
from tests.runtime.clock import Clock
from tests.runtime.scheduling.schedulers import LIMITS, NO_BOUND, Gate, first_ids, held, row
from tests.waiting import PATIENCE_S, wait_until


class Panic(BaseException):
    """As Rust's are in Python."""


FAULTS = [RuntimeError, SystemExit, Panic]


@pytest.fixture
def make() -> Iterator[Callable[[Callable[[Sequence[Encoding]], Floats]], Scheduler]]:
    made: list[Scheduler] = []

    def build(compute: Callable[[Sequence[Encoding]], Floats]) -> Scheduler:
        made.append(Scheduler(compute, LIMITS, NO_BOUND))
        return made[-1]

    yield build
    for scheduler in made:
        scheduler.close()


Make = Callable[[Callable[[Sequence[Encoding]], Floats]], Scheduler]


def raising(fault: type[BaseException]) -> Callable[..., None]:
    def work(*_: object, **__: object) -> None:
        raise fault

    return work


def assert_it_computes(scheduler: Scheduler) -> None:
    assert scheduler.submit([row(3, 7)], None).result(PATIENCE_S).outputs.tolist() == [7]
    assert scheduler.alive()


@pytest.mark.parametrize("fault", FAULTS)
def test_an_observer_that_raises(make: Make, fault: type[BaseException]) -> None:
    scheduler = make(first_ids)
    scheduler.on_engine_call(raising(fault))
    assert_it_computes(scheduler)
    assert_it_computes(scheduler)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_future_s_callback_that_raises(fault: type[BaseException]) -> None:
    gate = Gate()
    with held(gate) as scheduler:
        future = scheduler.submit([row(10)], None)
        future.add_done_callback(raising(fault))
        beside = scheduler.submit([row(10, 5)], None)
        gate.open.set()
        assert beside.result(PATIENCE_S).outputs.tolist() == [5]
        assert future.result(PATIENCE_S).outputs.tolist() == [1]
        assert_it_computes(scheduler)


class Broken(logging.Handler):
    def __init__(self, fault: type[BaseException]) -> None:
        super().__init__()
        self.records = 0
        self._fault = fault

    def handle(self, record: logging.LogRecord) -> bool:
        self.records += 1
        raise self._fault


@pytest.mark.parametrize("fault", FAULTS)
def test_a_log_handler_that_raises(make: Make, fault: type[BaseException]) -> None:
    broken = Broken(fault)
    logger = logging.getLogger("runtime.scheduling.scheduler")
    logger.addHandler(broken)
    try:

        def fail_on_thirteen(rows: Sequence[Encoding]) -> Floats:
            if any(one.token_ids[0] == 13 for one in rows):
                raise RuntimeError
            return first_ids(rows)

        scheduler = make(fail_on_thirteen)
        with pytest.raises(EngineError):
            scheduler.submit([row(3, 13)], None).result(PATIENCE_S)
        assert_it_computes(scheduler)
        assert broken.records == 1

        leaving = make(raising(SystemExit))  # type: ignore[arg-type]
        with pytest.raises(EngineError):
            leaving.submit([row(3)], None).result(PATIENCE_S)
        wait_until(lambda: not leaving.alive())
    finally:
        logger.removeHandler(broken)


def test_nobody_is_answered_under_the_lock() -> None:
    """A callback may wait for another thread that asks the scheduler."""
    gate = Gate()
    with held(gate) as scheduler:
        seen: list[bool] = []

        def ask_elsewhere(_: object) -> None:
            other = threading.Thread(target=lambda: seen.append(scheduler.idle()))
            other.start()
            other.join(PATIENCE_S)

        future = scheduler.submit([row(10)], None)
        future.add_done_callback(ask_elsewhere)
        gate.open.set()
        future.result(PATIENCE_S)
        wait_until(lambda: len(seen) == 1)


def test_outputs_that_change_their_shape_fail_one_request(make: Make) -> None:
    """An engine that gives numbers for some rows and vectors for others."""

    def compute(rows: Sequence[Encoding]) -> Floats:
        found = first_ids(rows)
        return found if len(rows[0]) > 100 else np.stack([found, found], axis=1)

    scheduler = make(compute)
    with pytest.raises(EngineError, match="shape"):
        scheduler.submit([row(900), row(3)], None).result(PATIENCE_S)
    assert scheduler.submit([row(3, 7)], None).result(PATIENCE_S).outputs.tolist() == [[7, 7]]


def test_outputs_that_are_no_numbers_fail_one_request(make: Make) -> None:
    def compute(rows: Sequence[Encoding]) -> Floats:
        if len(rows[0]) > 100:
            return np.asarray(["a"] * len(rows))  # type: ignore[return-value]
        return first_ids(rows)

    scheduler = make(compute)
    with pytest.raises(EngineError, match="in the engine"):
        scheduler.submit([row(900)], None).result(PATIENCE_S)
    assert_it_computes(scheduler)


def test_a_result_for_which_there_is_no_memory_fails_one_request(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = make(first_ids)
    with monkeypatch.context() as patched:
        patched.setattr("runtime.scheduling.request.np.empty", raising(MemoryError))
        with pytest.raises(EngineError, match="MemoryError"):
            scheduler.submit([row(9)], None).result(PATIENCE_S)
    assert_it_computes(scheduler)


def test_nan_fails_the_requests_that_own_it(make: Make) -> None:
    def compute(rows: Sequence[Encoding]) -> Floats:
        found = first_ids(rows)
        return np.where(found == 13, np.nan, found).astype(np.float32)

    scheduler = make(compute)
    with pytest.raises(NonFiniteScore, match=r"1 row\(s\)"):
        scheduler.submit([row(9, 13), row(9, 4)], None).result(PATIENCE_S)
    assert_it_computes(scheduler)


def test_waiting_ends_with_the_call_that_began_first() -> None:
    """Of two lanes: the call that begins last ends first."""
    clock = Clock()
    doors = {3: Gate(), 500: Gate(), 900: Gate()}

    def compute(rows: Sequence[Encoding]) -> Floats:
        return doors[len(rows[0])](rows)

    scheduler = Scheduler(compute, LIMITS, NO_BOUND, lanes=2, clock=clock)
    busy = scheduler.submit([row(500)], None)
    assert doors[500].entered.wait(PATIENCE_S)
    future = scheduler.submit([row(900), row(3)], None)
    assert doors[900].entered.wait(PATIENCE_S)
    clock.advance(5)
    doors[500].open.set()
    busy.result(PATIENCE_S)
    assert doors[3].entered.wait(PATIENCE_S)
    doors[3].open.set()
    wait_until(lambda: scheduler.stats().execution_count == 2)
    clock.advance(2)
    doors[900].open.set()
    scored = future.result(PATIENCE_S)
    assert (scored.queue_ms, scored.engine_ms) == (0, 7000)
    assert sorted(call.began - 1000 for call in scored.calls) == [0, 5]
    scheduler.close()


def test_a_scheduler_that_gets_too_few_threads_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    start, begun = threading.Thread.start, list[threading.Thread]()

    def start_one(self: threading.Thread) -> None:
        if begun:
            raise RuntimeError("can't start new thread")
        begun.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    with pytest.raises(RuntimeError, match="new thread"):
        Scheduler(first_ids, LIMITS, NO_BOUND, lanes=3)
    begun[0].join(PATIENCE_S)
    assert not begun[0].is_alive()


def test_limits_may_allow_fewer_calls_than_there_are_threads() -> None:
    gate = Gate()
    limits = replace(LIMITS, max_rows=1)
    with held(gate, lanes=3) as scheduler:
        scheduler.set_limits(replace(limits, lanes=1))
        waiting = [scheduler.submit([row(3, 10 + number)], None) for number in range(4)]
        assert len(gate.calls) == 1
        scheduler.set_limits(limits)  # as many as there are threads again
        wait_until(lambda: len(gate.calls) == 3)
        gate.open.set()
        outputs = [future.result(PATIENCE_S).outputs.tolist() for future in waiting]
    assert outputs == [[10.0], [11.0], [12.0], [13.0]]


def test_with_one_lane_of_several_calls_follow_each_other() -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def counted(rows: Sequence[Encoding]) -> Floats:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        found = first_ids(rows)
        with lock:
            running[0] -= 1
        return found

    limits = replace(LIMITS, max_rows=1, lanes=1)
    scheduler = Scheduler(counted, limits, NO_BOUND, lanes=3)
    done = [scheduler.submit([row(3, number)], None) for number in range(50)]
    assert [future.result(PATIENCE_S).outputs.item() for future in done] == list(range(50))
    scheduler.close()
    assert most == [1]
