"""Engines that fail, have no memory, are lost, hang or cannot be reached."""

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from runtime.errors import (
    DeviceLost,
    EngineError,
    EngineThreadEnded,
    EngineUnreachable,
    NonFiniteScore,
    OutOfMemory,
)
from runtime.postprocess import Floats
from runtime.scheduling.scheduler import Scheduler
from runtime.text import Encoding
from tests.runtime.scheduling.schedulers import Gate, first_ids, row
from tests.waiting import PATIENCE_S, wait_until


def first_ids_and_lengths(rows: Sequence[Encoding]) -> Floats:
    return np.asarray([[r.token_ids[0], len(r)] for r in rows], dtype=np.float32)


def test_vectors_of_several_calls_come_back_in_the_order_submitted(
    make: Callable[..., Scheduler],
) -> None:
    gate = Gate(first_ids_and_lengths)
    gate.open.set()
    rows = [row(900, 7), row(5, 8), row(300, 9)]
    outputs = make(gate).submit(rows, None).result(PATIENCE_S).outputs
    assert len(gate.calls) == 3  # lengths too far apart to share one
    assert outputs.tolist() == [[7, 900], [8, 5], [9, 300]]
    assert outputs.dtype == np.float32


def test_one_infinite_component_fails_its_own_request_only(make: Callable[..., Scheduler]) -> None:
    def compute(rows: Sequence[Encoding]) -> Floats:
        found = first_ids_and_lengths(rows)
        found[found[:, 0] == 13, 1] = np.inf
        return found

    gate = Gate(compute)
    scheduler = make(gate)
    scheduler.submit([row(3)], None)
    assert gate.entered.wait(PATIENCE_S)
    poisoned = scheduler.submit([row(10, 4), row(10, 13)], None)
    sound = scheduler.submit([row(10, 5)], None)
    gate.open.set()
    with pytest.raises(NonFiniteScore):
        poisoned.result(PATIENCE_S)
    assert sound.result(PATIENCE_S).outputs.tolist() == [[5, 10]]
    assert gate.calls[1] == [10, 10, 10]


def test_a_failing_engine_answers_its_waiters_and_goes_on(make: Callable[..., Scheduler]) -> None:
    def compute(rows: Sequence[Encoding]) -> Floats:
        if any(r.token_ids[0] == 13 for r in rows):
            raise RuntimeError("boom")
        return first_ids(rows)

    scheduler = make(compute)
    with pytest.raises(EngineError, match="RuntimeError"):
        scheduler.submit([row(4, 13), row(100, 1)], None).result(PATIENCE_S)
    assert scheduler.submit([row(4, 2)], None).result(PATIENCE_S).outputs.tolist() == [2]
    assert scheduler.stats().failed_count == 1


def test_nan_fails_its_own_request_only(make: Callable[..., Scheduler]) -> None:
    def compute(rows: Sequence[Encoding]) -> Floats:
        found = first_ids(rows)
        return np.where(found == 13, np.nan, found).astype(np.float32)

    gate = Gate(compute)
    scheduler = make(gate)
    scheduler.submit([row(3)], None)
    assert gate.entered.wait(PATIENCE_S)
    poisoned = scheduler.submit([row(10, 13)], None)
    sound = scheduler.submit([row(10, 5)], None)
    gate.open.set()
    with pytest.raises(NonFiniteScore):
        poisoned.result(PATIENCE_S)
    assert sound.result(PATIENCE_S).outputs.tolist() == [5]
    assert gate.calls[1] == [10, 10]


def test_an_engine_that_gives_too_few_outputs_is_an_error(make: Callable[..., Scheduler]) -> None:
    scheduler = make(lambda rows: first_ids(rows)[1:])
    for _ in range(2):
        with pytest.raises(EngineError, match="0 outputs for 1 rows"):
            scheduler.submit([row(5)], None).result(PATIENCE_S)


def test_a_batch_without_memory_is_halved_and_the_limit_is_kept(
    make: Callable[..., Scheduler],
) -> None:
    calls: list[int] = []

    def compute(rows: Sequence[Encoding]) -> Floats:
        calls.append(len(rows))
        if len(rows) > 2:
            raise OutOfMemory
        return first_ids(rows)

    scheduler = make(compute)
    rows = [row(10, first) for first in range(2, 10)]
    found = scheduler.submit(rows, None).result(PATIENCE_S)
    assert found.outputs.tolist() == list(range(2, 10))
    assert sorted(calls, reverse=True)[:3] == [8, 4, 4]
    calls.clear()
    scheduler.submit(rows, None).result(PATIENCE_S)
    assert max(calls) <= 2


def test_a_row_that_never_fits_is_unavailable_and_others_go_on(
    make: Callable[..., Scheduler],
) -> None:
    def compute(rows: Sequence[Encoding]) -> Floats:
        if max(map(len, rows)) > 50:
            raise OutOfMemory
        return first_ids(rows)

    scheduler = make(compute)
    with pytest.raises(OutOfMemory):
        scheduler.submit([row(60)], None).result(PATIENCE_S)
    assert scheduler.submit([row(10)], None).result(PATIENCE_S).outputs.tolist() == [1]
    assert not scheduler.device_lost


def test_a_lost_device_answers_everyone_and_takes_nobody(make: Callable[..., Scheduler]) -> None:
    def fail(rows: Sequence[Encoding]) -> Floats:
        raise DeviceLost

    gate = Gate(fail)
    scheduler = make(gate)
    running = scheduler.submit([row(5)], None)
    assert gate.entered.wait(PATIENCE_S)
    waiting = scheduler.submit([row(500)], None)
    gate.open.set()
    for future in (running, waiting):
        with pytest.raises(DeviceLost):
            future.result(PATIENCE_S)
    assert scheduler.device_lost
    assert len(gate.calls) == 1
    with pytest.raises(DeviceLost):
        scheduler.submit([row(5)], None)


def test_an_unreachable_engine_is_polled_again(make: Callable[..., Scheduler]) -> None:
    gone = threading.Event()

    def compute(rows: Sequence[Encoding]) -> Floats:
        if gone.is_set():
            raise EngineUnreachable
        return first_ids(rows)

    scheduler = make(compute)
    gone.set()
    with pytest.raises(EngineUnreachable):
        scheduler.submit([row(5)], None).result(PATIENCE_S)
    assert scheduler.unreachable
    gone.clear()
    assert scheduler.submit([row(5)], None).result(PATIENCE_S).outputs.tolist() == [1]
    assert scheduler.unreachable  # until somebody has looked whether it computes as before
    scheduler.unreachable = False
    assert not scheduler.unreachable


def test_a_thread_that_ends_answers_everybody(
    make: Callable[..., Scheduler], caplog: pytest.LogCaptureFixture
) -> None:
    def leave(rows: Sequence[Encoding]) -> Floats:
        raise SystemExit

    gate = Gate(leave)
    scheduler = make(gate)
    running = scheduler.submit([row(3)], None)
    assert gate.entered.wait(PATIENCE_S)
    waiting = scheduler.submit([row(900)], None)
    gate.open.set()
    for future in (running, waiting):
        with pytest.raises(EngineThreadEnded):
            future.result(PATIENCE_S)
    assert "the thread that calls the engine ended" in caplog.text
    wait_until(lambda: not scheduler.alive())
    with pytest.raises(EngineThreadEnded):
        scheduler.submit([row(3)], None)
