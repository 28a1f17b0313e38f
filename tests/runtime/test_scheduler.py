"""Every waiter is answered, rows share calls, and the queue is bounded."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from runtime import scheduler as scheduler_module
from runtime.batch import BatchLimits
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
    TooLate,
)
from runtime.postprocess import Floats
from runtime.scheduler import QueueLimits, Scheduler
from runtime.text import Encoding

LIMITS = BatchLimits(max_rows=8, token_budget=1000, padding_waste=0.4)


def row(length: int, first: int = 1) -> Encoding:
    return Encoding(np.asarray([first] + [1] * (length - 1), dtype=np.int64), None)


def first_ids(rows: Sequence[Encoding]) -> Floats:
    return np.asarray([r.token_ids[0] for r in rows], dtype=np.float32)


class Gate:
    """A compute function that waits until it is opened, and remembers its calls."""

    def __init__(self, then: Callable[[Sequence[Encoding]], Floats] = first_ids) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.calls: list[list[int]] = []
        self._then = then

    def __call__(self, rows: Sequence[Encoding]) -> Floats:
        self.calls.append([len(r) for r in rows])
        self.entered.set()
        assert self.open.wait(10)
        return self._then(rows)


@pytest.fixture
def make() -> Iterator[Callable[..., Scheduler]]:
    made: list[tuple[Scheduler, object]] = []

    def build(
        compute: Callable[[Sequence[Encoding]], Floats],
        queue_rows: int = 100,
        queue_tokens: int = 100_000,
        lanes: int = 1,
    ) -> Scheduler:
        queue = QueueLimits(queue_rows, queue_tokens)
        scheduler = Scheduler(compute, LIMITS, queue, lanes=lanes)
        made.append((scheduler, compute))
        return scheduler

    yield build
    for scheduler, compute in made:
        if isinstance(compute, Gate):
            compute.open.set()
        scheduler.close()


def blocked(make: Callable[..., Scheduler], **options: int) -> tuple[Scheduler, Gate]:
    """A scheduler whose engine is busy with one row until the gate opens."""
    gate = Gate()
    scheduler = make(gate, **options)
    scheduler.submit([row(3)], None)
    assert gate.entered.wait(5)
    return scheduler, gate


def test_outputs_come_back_in_the_order_submitted(make: Callable[..., Scheduler]) -> None:
    rows = [row(30, 7), row(5, 8), row(12, 9)]
    assert make(first_ids).submit(rows, None).result(5).outputs.tolist() == [7, 8, 9]


def first_ids_and_lengths(rows: Sequence[Encoding]) -> Floats:
    return np.asarray([[r.token_ids[0], len(r)] for r in rows], dtype=np.float32)


def test_vectors_of_several_calls_come_back_in_the_order_submitted(
    make: Callable[..., Scheduler],
) -> None:
    gate = Gate(first_ids_and_lengths)
    gate.open.set()
    rows = [row(900, 7), row(5, 8), row(300, 9)]
    outputs = make(gate).submit(rows, None).result(5).outputs
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
    assert gate.entered.wait(5)
    poisoned = scheduler.submit([row(10, 4), row(10, 13)], None)
    sound = scheduler.submit([row(10, 5)], None)
    gate.open.set()
    with pytest.raises(NonFiniteScore):
        poisoned.result(5)
    assert sound.result(5).outputs.tolist() == [[5, 10]]
    assert gate.calls[1] == [10, 10, 10]


def test_rows_of_several_requests_share_a_call(make: Callable[..., Scheduler]) -> None:
    scheduler, gate = blocked(make)
    futures = [scheduler.submit([row(10, i)], None) for i in range(4)]
    gate.open.set()
    assert [f.result(5).outputs[0] for f in futures] == [0, 1, 2, 3]
    assert gate.calls == [[3], [10, 10, 10, 10]]
    stats = scheduler.stats()
    assert (stats.inference_count, stats.execution_count) == (5, 2)


def test_the_oldest_row_is_in_the_next_call(make: Callable[..., Scheduler]) -> None:
    scheduler, gate = blocked(make)
    old = scheduler.submit([row(400)], None)
    young = [scheduler.submit([row(4)], None) for _ in range(20)]
    gate.open.set()
    old.result(5)
    [f.result(5) for f in young]
    assert 400 in gate.calls[1]


def test_a_failing_engine_answers_its_waiters_and_goes_on(make: Callable[..., Scheduler]) -> None:
    def compute(rows: Sequence[Encoding]) -> Floats:
        if any(r.token_ids[0] == 13 for r in rows):
            raise RuntimeError("boom")
        return first_ids(rows)

    scheduler = make(compute)
    with pytest.raises(EngineError, match="RuntimeError"):
        scheduler.submit([row(4, 13), row(100, 1)], None).result(5)
    assert scheduler.submit([row(4, 2)], None).result(5).outputs.tolist() == [2]
    assert scheduler.stats().failed_count == 1


def test_nan_fails_its_own_request_only(make: Callable[..., Scheduler]) -> None:
    def compute(rows: Sequence[Encoding]) -> Floats:
        found = first_ids(rows)
        return np.where(found == 13, np.nan, found).astype(np.float32)

    gate = Gate(compute)
    scheduler = make(gate)
    scheduler.submit([row(3)], None)
    assert gate.entered.wait(5)
    poisoned = scheduler.submit([row(10, 13)], None)
    sound = scheduler.submit([row(10, 5)], None)
    gate.open.set()
    with pytest.raises(NonFiniteScore):
        poisoned.result(5)
    assert sound.result(5).outputs.tolist() == [5]
    assert gate.calls[1] == [10, 10]


def test_a_full_queue_refuses_the_whole_request(make: Callable[..., Scheduler]) -> None:
    scheduler, _ = blocked(make, queue_rows=4)
    scheduler.submit([row(5)] * 3, None)
    with pytest.raises(Overloaded) as caught:
        scheduler.submit([row(5)] * 2, None)
    assert caught.value.retry_after_s >= 1
    assert scheduler.queue_depth() == (3, 15)


def test_an_idle_scheduler_takes_any_size(make: Callable[..., Scheduler]) -> None:
    assert len(make(first_ids, queue_rows=2).submit([row(5)] * 50, None).result(5).outputs) == 50


def test_a_request_that_cannot_be_in_time_is_refused_at_once(
    make: Callable[..., Scheduler],
) -> None:
    def slow(rows: Sequence[Encoding]) -> Floats:
        time.sleep(0.02)
        return first_ids(rows)

    scheduler = make(slow)
    for _ in range(10):
        scheduler.submit([row(100)], None).result(5)
    with pytest.raises(TooLate, match="longer than the request's deadline"):
        scheduler.submit([row(900)] * 40, time.monotonic() + 3)


def test_a_request_that_would_be_late_for_what_waits_is_not_called_too_large(
    make: Callable[..., Scheduler],
) -> None:
    gate = Gate()

    def slow(rows: Sequence[Encoding]) -> Floats:
        time.sleep(0.02)
        return gate(rows)

    gate.open.set()
    scheduler = make(slow)
    for _ in range(10):
        scheduler.submit([row(100)], None).result(5)
    gate.open.clear()
    waiting = scheduler.submit([row(900)] * 10, None)
    with pytest.raises(Overloaded, match="for what waits before it") as caught:
        scheduler.submit([row(100)], time.monotonic() + 1)
    assert not isinstance(caught.value, TooLate)
    assert caught.value.retry_after_s > 1
    gate.open.set()
    assert len(waiting.result(10).outputs) == 10


def test_an_engine_that_gives_too_few_outputs_is_an_error(make: Callable[..., Scheduler]) -> None:
    scheduler = make(lambda rows: first_ids(rows)[1:])
    for _ in range(2):
        with pytest.raises(EngineError, match="0 outputs for 1 rows"):
            scheduler.submit([row(5)], None).result(5)


def test_no_rows_are_answered_at_once(make: Callable[..., Scheduler]) -> None:
    assert make(first_ids).submit([], None).result(1).outputs.shape == (0,)


def test_an_engine_that_hangs_leaves_nobody_waiting(
    make: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_module, "_CLOSE_PATIENCE_S", 0.1)
    gate = Gate()
    scheduler = make(gate)
    running = scheduler.submit([row(3)], None)
    assert gate.entered.wait(5)
    waiting = scheduler.submit([row(5)], None)
    assert not scheduler.close()
    for future in (running, waiting):
        with pytest.raises(ModelClosed):
            future.result(1)


def test_a_row_past_its_deadline_is_not_computed(make: Callable[..., Scheduler]) -> None:
    scheduler, gate = blocked(make)
    late = scheduler.submit([row(50)], time.monotonic() + 0.05)
    time.sleep(0.1)
    gate.open.set()
    with pytest.raises(DeadlineExceeded):
        late.result(5)
    assert gate.calls == [[3]]


def test_cancelling_drops_the_waiting_rows(make: Callable[..., Scheduler]) -> None:
    scheduler, gate = blocked(make)
    abandoned = scheduler.submit([row(50)] * 10, None)
    assert abandoned.cancel()
    assert scheduler.queue_depth() == (0, 0)
    gate.open.set()
    assert scheduler.submit([row(4, 2)], None).result(5).outputs.tolist() == [2]
    assert [50] not in gate.calls


def test_closing_answers_everybody(make: Callable[..., Scheduler]) -> None:
    scheduler, gate = blocked(make)
    waiting = scheduler.submit([row(5)], None)
    threading.Timer(0.1, gate.open.set).start()
    scheduler.close()
    with pytest.raises(ModelClosed):
        waiting.result(5)
    with pytest.raises(ModelClosed):
        scheduler.submit([row(5)], None)


def test_within_the_window_rows_wait_for_company() -> None:
    calls: list[int] = []

    def compute(rows: Sequence[Encoding]) -> Floats:
        calls.append(len(rows))
        return first_ids(rows)

    scheduler = Scheduler(compute, LIMITS, QueueLimits(100, 100_000), window_s=0.5)
    try:
        futures = [scheduler.submit([row(10)], None) for _ in range(3)]
        for future in futures:
            future.result(5)
        assert calls == [3]
        # A full batch has nobody to wait for.
        began = time.monotonic()
        scheduler.submit([row(10)] * LIMITS.max_rows, None).result(5)
        assert time.monotonic() - began < 0.4
    finally:
        scheduler.close()


def test_closing_does_not_wait_for_the_window() -> None:
    scheduler = Scheduler(first_ids, LIMITS, QueueLimits(100, 100_000), window_s=60.0)
    future = scheduler.submit([row(10)], None)
    assert scheduler.close()
    with pytest.raises(ModelClosed):
        future.result(0)


def test_a_batch_without_memory_is_halved_and_the_bound_is_kept(
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
    found = scheduler.submit(rows, None).result(10)
    assert found.outputs.tolist() == list(range(2, 10))
    assert sorted(calls, reverse=True)[:3] == [8, 4, 4]
    calls.clear()
    scheduler.submit(rows, None).result(10)
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
        scheduler.submit([row(60)], None).result(10)
    assert scheduler.submit([row(10)], None).result(10).outputs.tolist() == [1]
    assert not scheduler.lost


def test_a_lost_device_answers_everyone_and_takes_nobody(make: Callable[..., Scheduler]) -> None:
    def fail(rows: Sequence[Encoding]) -> Floats:
        raise DeviceLost

    gate = Gate(fail)
    scheduler = make(gate)
    running = scheduler.submit([row(5)], None)
    assert gate.entered.wait(10)
    waiting = scheduler.submit([row(500)], None)
    gate.open.set()
    for future in (running, waiting):
        with pytest.raises(DeviceLost):
            future.result(10)
    assert scheduler.lost
    assert len(gate.calls) == 1
    with pytest.raises(DeviceLost):
        scheduler.submit([row(5)], None)


def test_an_engine_that_is_away_is_asked_again(make: Callable[..., Scheduler]) -> None:
    gone = threading.Event()

    def compute(rows: Sequence[Encoding]) -> Floats:
        if gone.is_set():
            raise EngineAway
        return first_ids(rows)

    scheduler = make(compute)
    gone.set()
    with pytest.raises(EngineAway):
        scheduler.submit([row(5)], None).result(10)
    assert scheduler.away
    gone.clear()
    assert scheduler.submit([row(5)], None).result(10).outputs.tolist() == [1]
    assert scheduler.away  # until somebody has looked whether it computes as before
    scheduler.returned()
    assert not scheduler.away


def test_a_new_scheduler_predicts_by_the_one_before(make: Callable[..., Scheduler]) -> None:
    def slowly(rows: Sequence[Encoding]) -> Floats:
        time.sleep(0.01)
        return first_ids(rows)

    before = make(slowly)
    for _ in range(8):
        before.submit([row(10)], None).result(10)
    soon = time.monotonic() + 60
    vast = [row(1000)] * 100  # 100 s at a millisecond a token
    new = make(slowly)
    new.submit(vast, soon).cancel()  # nothing is known: it is tried
    follower = make(slowly)
    follower.follow(before)
    with pytest.raises(TooLate, match="longer than the request's deadline"):
        follower.submit(vast, soon)
    stats = before.stats() + before.stats()
    assert (stats.inference_count, stats.real_tokens) == (16, 160)


def test_a_queue_full_of_tokens_refuses(make: Callable[..., Scheduler]) -> None:
    scheduler, _ = blocked(make, queue_tokens=100)
    scheduler.submit([row(60)], None)
    with pytest.raises(Overloaded, match="60 tokens and has room for 100"):
        scheduler.submit([row(50)], None)


def test_room_is_kept_for_what_is_being_tokenised(make: Callable[..., Scheduler]) -> None:
    scheduler, _ = blocked(make, queue_rows=4)
    with scheduler.expecting(3, 30, None):
        assert not scheduler.idle()
        with pytest.raises(Overloaded), scheduler.expecting(2, 20, None):
            raise AssertionError
    with scheduler.expecting(4, 40, None):
        pass
    assert scheduler.submit([row(5)] * 4, None) is not None


def test_a_large_request_does_not_hold_up_small_ones(make: Callable[..., Scheduler]) -> None:
    scheduler, gate = blocked(make)
    large = scheduler.submit([row(900, i) for i in range(20)], None)
    small = [scheduler.submit([row(10, i)], None) for i in range(3)]
    gate.open.set()
    for future in small:
        future.result(5)
    large.result(5)
    # The large one came first and has the first call, the small ones share the second.
    assert gate.calls[1:3] == [[900], [10, 10, 10]]


def test_a_stream_of_small_requests_does_not_hold_up_a_large_one(
    make: Callable[..., Scheduler],
) -> None:
    done = threading.Event()

    def compute(rows: Sequence[Encoding]) -> Floats:
        time.sleep(0.001)
        return first_ids(rows)

    scheduler = make(compute, queue_rows=1000)
    large = scheduler.submit([row(900, i) for i in range(5)], None)
    large.add_done_callback(lambda _: done.set())
    sent = 0
    while not done.is_set():
        assert sent < 2000
        for _ in range(3):
            scheduler.submit([row(10)], None)
        sent += 3
        time.sleep(0.001)


def test_when_time_is_short_the_oldest_goes_first(make: Callable[..., Scheduler]) -> None:
    def slow(rows: Sequence[Encoding]) -> Floats:
        time.sleep(0.1)
        return first_ids(rows)

    gate = Gate(slow)
    gate.open.set()
    scheduler = make(gate)
    for _ in range(10):
        scheduler.submit([row(900)], None).result(5)
    gate.open.clear()
    gate.entered.clear()
    scheduler.submit([row(900)], None)
    assert gate.entered.wait(5)
    calls = len(gate.calls)
    soon = time.monotonic() + 0.66
    large = scheduler.submit([row(900, i) for i in range(5)], soon)
    small = [scheduler.submit([row(10, i)], soon + 60) for i in range(3)]
    gate.open.set()
    large.exception(5)
    for future in small:
        future.result(5)
    assert gate.calls[calls : calls + 5] == [[900]] * 5


def test_a_thread_that_ends_answers_everybody(
    make: Callable[..., Scheduler], caplog: pytest.LogCaptureFixture
) -> None:
    def leave(rows: Sequence[Encoding]) -> Floats:
        raise SystemExit

    gate = Gate(leave)
    scheduler = make(gate)
    running = scheduler.submit([row(3)], None)
    assert gate.entered.wait(5)
    waiting = scheduler.submit([row(900)], None)
    gate.open.set()
    for future in (running, waiting):
        with pytest.raises(EngineLost):
            future.result(5)
    assert "the thread that calls the engine ended" in caplog.text
    while scheduler.alive():
        time.sleep(0.001)
    with pytest.raises(EngineLost):
        scheduler.submit([row(3)], None)


def test_how_long_a_call_runs(make: Callable[..., Scheduler]) -> None:
    scheduler, gate = blocked(make)
    time.sleep(0.02)
    assert scheduler.running_s() >= 0.01
    gate.open.set()
    while not scheduler.idle():
        time.sleep(0.001)
    assert scheduler.running_s() == 0


class Meeting:
    """A compute function that returns when `guests` calls are under way at the same time."""

    def __init__(self, guests: int) -> None:
        self.calls: list[list[int]] = []
        self._barrier = threading.Barrier(guests)

    def __call__(self, rows: Sequence[Encoding]) -> Floats:
        self.calls.append([len(r) for r in rows])
        self._barrier.wait(10)
        return first_ids(rows)


def test_lanes_compute_beside_each_other_and_share_the_rows(make: Callable[..., Scheduler]) -> None:
    meeting = Meeting(2)
    rows = [row(10, number) for number in range(1, 7)]
    outputs = make(meeting, lanes=2).submit(rows, None).result(5).outputs
    assert outputs.tolist() == [1, 2, 3, 4, 5, 6]
    assert meeting.calls == [[10] * 3, [10] * 3]


def test_closing_waits_for_every_lane(make: Callable[..., Scheduler]) -> None:
    gate = Gate()
    scheduler = make(gate, lanes=2)
    running = scheduler.submit([row(3), row(900)], None)
    while len(gate.calls) < 2:
        time.sleep(0.001)
    waiting = scheduler.submit([row(5)], None)
    closer = threading.Thread(target=scheduler.close)
    closer.start()
    with pytest.raises(ModelClosed):
        waiting.result(5)
    gate.open.set()
    closer.join(5)
    assert not closer.is_alive()
    assert running.result(5).outputs.tolist() == [1, 1]


def test_a_row_without_tokens_is_answered(make: Callable[..., Scheduler]) -> None:
    empty = Encoding(np.asarray([], dtype=np.int64), None)
    scheduler = make(lambda rows: np.zeros(len(rows), dtype=np.float32))
    assert scheduler.submit([empty], None).result(5).outputs.tolist() == [0]
    assert scheduler.alive()


def test_a_fault_behind_the_engine_answers_everybody(make: Callable[..., Scheduler]) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("cannot be told")

    scheduler = make(first_ids)
    scheduler.tell(broken)
    with pytest.raises(EngineLost):
        scheduler.submit([row(3)], None).result(5)
