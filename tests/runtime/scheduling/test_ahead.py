"""Calls that are prepared while another one runs, for an engine that has a device of its own."""

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from runtime.errors import ModelClosed, OutOfMemory
from runtime.postprocess import Floats
from runtime.scheduling import scheduler as scheduler_module
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
