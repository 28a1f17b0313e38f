"""Calls that are prepared while another one runs, for an engine that has a device of its own."""

import threading
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pytest

from runtime.errors import EngineThreadEnded, ModelClosed, OutOfMemory
from runtime.postprocess import Floats
from runtime.scheduling import scheduler as scheduler_module
from runtime.scheduling.engine_threads import EngineThreads
from runtime.scheduling.scheduler import Scheduler
from runtime.text import Encoding
from tests.runtime.clock import Clock
from tests.runtime.scheduling.schedulers import LIMITS, NO_BOUND, Gate, first_ids, row
from tests.waiting import PATIENCE_S, wait_until

FULL = [row(10, number) for number in range(LIMITS.max_rows)]
FIRSTS = [float(number) for number in range(LIMITS.max_rows)]


class Steps:
    """What was done, in this order: ("prepare" or "compute", rows), by which thread."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int]] = []
        self.threads: set[str] = set()
        self.gate = Gate(self._compute)
        self.clock = Clock()
        self.most = 100

    def prepare(self, rows: Sequence[Encoding]) -> Sequence[Encoding]:
        self.done.append(("prepare", len(rows)))
        return rows

    def _compute(self, rows: Sequence[Encoding]) -> Floats:
        self.done.append(("compute", len(rows)))
        self.threads.add(threading.current_thread().name)
        self.clock.advance(1)
        if len(rows) > self.most:
            raise OutOfMemory("full")
        return first_ids(rows)


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def scheduler(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    """Prepares one call ahead; its engine computes one row until the gate opens."""
    monkeypatch.setattr(scheduler_module, "_CLOSE_PATIENCE_S", PATIENCE_S)
    made = Scheduler(
        steps.gate, LIMITS, NO_BOUND, clock=steps.clock, prepare=steps.prepare, ahead=1
    )
    made.submit([row(3)], None)
    assert steps.gate.entered.wait(PATIENCE_S)
    yield made
    steps.gate.open.set()
    made.close()


def test_a_full_call_is_prepared_while_another_runs(scheduler: Scheduler, steps: Steps) -> None:
    future = scheduler.submit(FULL, None)
    wait_until(lambda: len(steps.done) == 2)
    # The first call is in the engine, and does not leave it before the gate opens.
    assert steps.done == [("prepare", 1), ("prepare", 8)]
    steps.gate.open.set()
    assert future.result(PATIENCE_S).outputs.tolist() == FIRSTS
    assert steps.done[2:] == [("compute", 1), ("compute", 8)]
    assert steps.threads == {"engine-0"}


def test_a_call_that_others_may_join_is_not_taken_ahead(scheduler: Scheduler, steps: Steps) -> None:
    early = scheduler.submit(FULL[:3], None)
    late = scheduler.submit(FULL[3:6], None)
    steps.gate.open.set()
    early.result(PATIENCE_S)
    late.result(PATIENCE_S)
    assert steps.done == [("prepare", 1), ("compute", 1), ("prepare", 6), ("compute", 6)]


def test_no_more_calls_are_taken_ahead_than_asked_for(scheduler: Scheduler, steps: Steps) -> None:
    futures = [scheduler.submit(FULL, None) for _ in range(3)]
    wait_until(lambda: len(steps.done) == 2)
    assert scheduler.queue_depth()[0] == 2 * len(FULL)
    steps.gate.open.set()
    assert [future.result(PATIENCE_S).outputs.tolist() for future in futures] == [FIRSTS] * 3


def test_waiting_for_the_engine_is_no_time_in_it(scheduler: Scheduler, steps: Steps) -> None:
    future = scheduler.submit(FULL, None)
    wait_until(lambda: len(steps.done) == 2)
    steps.clock.advance(4)
    steps.gate.open.set()
    scored = future.result(PATIENCE_S)
    # The first call takes one of the five seconds, the second call another one.
    assert (scored.queue_ms, scored.engine_ms) == (5000, 1000)


def test_calls_in_a_row_do_not_count_as_calls_at_the_same_time(
    scheduler: Scheduler, steps: Steps
) -> None:
    futures = [scheduler.submit(FULL, None) for _ in range(12)]
    steps.gate.open.set()
    for future in futures:
        future.result(PATIENCE_S)
    assert scheduler.predicted_s(80) == 1


def test_memory_that_is_short_halves_a_call_that_was_taken_ahead(
    scheduler: Scheduler, steps: Steps
) -> None:
    steps.most = 4
    future = scheduler.submit(FULL, None)
    wait_until(lambda: len(steps.done) == 2)
    steps.gate.open.set()
    assert future.result(PATIENCE_S).outputs.tolist() == FIRSTS
    assert [rows for step, rows in steps.done if step == "compute"] == [1, 8, 4, 4]


def test_closing_computes_nothing_that_was_taken_ahead(scheduler: Scheduler, steps: Steps) -> None:
    future = scheduler.submit(FULL, None)
    wait_until(lambda: len(steps.done) == 2)
    closing = threading.Thread(target=scheduler.close)
    closing.start()
    wait_until(lambda: scheduler._closed_by is not None)
    steps.gate.open.set()
    closing.join(PATIENCE_S)
    with pytest.raises(ModelClosed):
        future.result(PATIENCE_S)
    assert steps.done[2:] == [("compute", 1)]
    wait_until(lambda: not scheduler._engine_threads.alive())


def test_what_cannot_be_prepared_fails_its_request_alone(
    scheduler: Scheduler, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise MemoryError

    steps.gate.open.set()
    with monkeypatch.context() as broken:
        broken.setattr(scheduler, "_prepare", fail)
        with pytest.raises(Exception, match="MemoryError in the engine"):
            scheduler.submit(FULL, None).result(PATIENCE_S)
    assert np.array_equal(scheduler.submit(FULL, None).result(PATIENCE_S).outputs, FIRSTS)


def test_a_call_that_is_prepared_sooner_does_not_overtake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call is still being laid out when the one behind it is ready."""
    steps, prepared, begun = Steps(), threading.Event(), threading.Event()
    steps.gate.open.set()

    def prepare(rows: Sequence[Encoding]) -> Sequence[Encoding]:
        if len(rows) == 1:
            begun.set()
            assert prepared.wait(PATIENCE_S)
        return steps.prepare(rows)

    scheduler = Scheduler(steps.gate, LIMITS, NO_BOUND, clock=steps.clock, prepare=prepare, ahead=1)
    first = scheduler.submit([row(3)], None)
    assert begun.wait(PATIENCE_S)
    second = scheduler.submit(FULL, None)
    wait_until(lambda: bool(scheduler._engine_threads._calls))
    steps.clock.advance(4)
    assert steps.done == [("prepare", 8)]
    assert scheduler.running_s() == 4
    prepared.set()
    found = [future.result(PATIENCE_S) for future in (first, second)]
    assert [rows for step, rows in steps.done if step == "compute"] == [1, 8]
    # Four seconds pass before the first call, which takes one.
    assert [(one.queue_ms, one.engine_ms) for one in found] == [(4000, 1000), (5000, 1000)]
    scheduler.close()


def test_a_call_ahead_does_not_count_as_a_running_one(scheduler: Scheduler, steps: Steps) -> None:
    steps.clock.advance(2)
    scheduler.submit(FULL, None)
    wait_until(lambda: len(steps.done) == 2)
    steps.clock.advance(3)
    assert scheduler.running_s() == 5


def test_an_engine_thread_that_ends_answers_everybody(
    scheduler: Scheduler, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = scheduler.submit(FULL, None)
    wait_until(lambda: bool(scheduler._engine_threads._calls))

    def end() -> None:
        raise SystemExit

    monkeypatch.setattr(scheduler._engine_threads, "_take", end)
    assert scheduler.alive()
    steps.gate.open.set()
    with pytest.raises(EngineThreadEnded):
        waiting.result(PATIENCE_S)
    wait_until(lambda: not scheduler.alive())
    assert all(thread.is_alive() for thread in scheduler._threads)
    with pytest.raises(EngineThreadEnded):
        scheduler.submit([row(3)], None)


def test_calls_of_threads_that_ended_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(EngineThreads, "_take", end)
    threads = EngineThreads(1)
    wait_until(lambda: not threads.alive())
    with pytest.raises(EngineThreadEnded):
        threads.run(0, list)


def test_what_no_handler_catches_is_raised_where_the_call_is_asked_for() -> None:
    class Panic(BaseException):
        """As Rust's are in Python."""

    def panic() -> None:
        raise Panic

    threads = EngineThreads(1)
    with pytest.raises(Panic):
        threads.run(0, panic)
    assert threads.run(1, lambda: 7) == 7
    assert threads.alive()
    threads.close()


def test_calls_keep_their_order_around_batches_without_one() -> None:
    threads, order = EngineThreads(1), []
    waiting = [
        threading.Thread(target=threads.run, args=(number, partial(order.append, number)))
        for number in (4, 2)
    ]
    for number, thread in enumerate(waiting, 1):
        thread.start()
        wait_until(lambda number=number: len(threads._calls) == number)  # type: ignore[misc]
    threads.over(3)
    threads.over(1)
    threads.over(0)
    for thread in waiting:
        thread.join(PATIENCE_S)
    assert order == [2, 4]
    threads.run(2, lambda: order.append(2))  # a half of it
    assert order == [2, 4, 2]
    threads.close()
    wait_until(lambda: not threads.alive())
