"""Every waiter is answered, rows share calls, and the queue is bounded."""

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from runtime.errors import (
    DeadlineExceeded,
    ModelClosed,
    Overloaded,
    TooLate,
)
from runtime.postprocess import Floats
from runtime.scheduling import scheduler as scheduler_module
from runtime.scheduling.scheduler import Scheduler
from runtime.text import Encoding
from tests.runtime.clock import Clock
from tests.runtime.scheduling.conftest import blocked
from tests.runtime.scheduling.schedulers import LIMITS, Gate, first_ids, row
from tests.waiting import PATIENCE_S, wait_until


class Timed:
    """A compute function whose calls take `seconds` of the clock, and none of the machine's; it
    remembers them."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.calls: list[list[int]] = []
        self._clock, self._seconds = clock, seconds

    def __call__(self, rows: Sequence[Encoding]) -> Floats:
        self.calls.append([len(r) for r in rows])
        self._clock.advance(self._seconds)
        return first_ids(rows)


def test_outputs_come_back_in_the_order_submitted(make: Callable[..., Scheduler]) -> None:
    rows = [row(30, 7), row(5, 8), row(12, 9)]
    assert make(first_ids).submit(rows, None).result(PATIENCE_S).outputs.tolist() == [7, 8, 9]


def test_rows_of_several_requests_share_a_call(make: Callable[..., Scheduler]) -> None:
    scheduler, gate = blocked(make)
    futures = [scheduler.submit([row(10, i)], None) for i in range(4)]
    gate.open.set()
    assert [f.result(PATIENCE_S).outputs[0] for f in futures] == [0, 1, 2, 3]
    assert gate.calls == [[3], [10, 10, 10, 10]]
    stats = scheduler.stats()
    assert (stats.inference_count, stats.execution_count) == (5, 2)


def test_the_oldest_row_is_in_the_next_call(make: Callable[..., Scheduler]) -> None:
    scheduler, gate = blocked(make)
    old = scheduler.submit([row(400)], None)
    young = [scheduler.submit([row(4)], None) for _ in range(20)]
    gate.open.set()
    old.result(PATIENCE_S)
    [f.result(PATIENCE_S) for f in young]
    assert 400 in gate.calls[1]


def test_a_full_queue_refuses_the_whole_request(make: Callable[..., Scheduler]) -> None:
    scheduler, _ = blocked(make, queue_rows=4)
    scheduler.submit([row(5)] * 3, None)
    with pytest.raises(Overloaded) as caught:
        scheduler.submit([row(5)] * 2, None)
    assert caught.value.retry_after_s >= 1
    assert scheduler.queue_depth() == (3, 15)


def test_an_idle_scheduler_takes_any_size(make: Callable[..., Scheduler]) -> None:
    assert (
        len(make(first_ids, queue_rows=2).submit([row(5)] * 50, None).result(PATIENCE_S).outputs)
        == 50
    )


def test_a_request_that_cannot_be_in_time_is_refused_at_once(
    make: Callable[..., Scheduler], clock: Clock
) -> None:
    engine = Timed(clock, 0.02)
    scheduler = make(engine)
    for _ in range(10):
        scheduler.submit([row(100)], None).result(PATIENCE_S)
    vast = [row(900)] * 40  # 7.2 s
    with pytest.raises(TooLate, match="longer than the request's deadline"):
        scheduler.submit(vast, clock() + 7)
    assert len(engine.calls) == 10
    assert len(scheduler.submit(vast, clock() + 7.5).result(PATIENCE_S).outputs) == 40


def test_a_request_that_would_be_late_for_what_waits_is_not_called_too_large(
    make: Callable[..., Scheduler], clock: Clock
) -> None:
    gate = Gate(Timed(clock, 0.02))
    gate.open.set()
    scheduler = make(gate)
    for _ in range(10):
        scheduler.submit([row(100)], None).result(PATIENCE_S)
    gate.open.clear()
    waiting = scheduler.submit([row(900)] * 10, None)  # 1.8 s
    with pytest.raises(Overloaded, match="the requests before it included") as caught:
        scheduler.submit([row(100)], clock() + 1)
    assert not isinstance(caught.value, TooLate)
    assert caught.value.retry_after_s == pytest.approx(1.8)
    gate.open.set()
    assert len(waiting.result(PATIENCE_S).outputs) == 10


def test_no_rows_are_answered_at_once(make: Callable[..., Scheduler]) -> None:
    assert make(first_ids).submit([], None).result(PATIENCE_S).outputs.shape == (0,)


def test_an_engine_that_hangs_leaves_nobody_waiting(
    make: Callable[..., Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_module, "_CLOSE_PATIENCE_S", 0.0)
    gate = Gate()
    scheduler = make(gate)
    running = scheduler.submit([row(3)], None)
    assert gate.entered.wait(PATIENCE_S)
    waiting = scheduler.submit([row(5)], None)
    assert not scheduler.close()
    for future in (running, waiting):
        with pytest.raises(ModelClosed):
            future.result(PATIENCE_S)


def test_a_row_past_its_deadline_is_not_computed(
    make: Callable[..., Scheduler], clock: Clock
) -> None:
    scheduler, gate = blocked(make)
    late = scheduler.submit([row(50)], clock() + 1)
    clock.advance(2)
    gate.open.set()
    with pytest.raises(DeadlineExceeded):
        late.result(PATIENCE_S)
    scheduler.submit([row(70)], clock() + 1).result(PATIENCE_S)
    assert gate.calls == [[3], [70]]


def test_cancelling_drops_the_waiting_rows(make: Callable[..., Scheduler]) -> None:
    scheduler, gate = blocked(make)
    abandoned = scheduler.submit([row(50)] * 10, None)
    assert abandoned.cancel()
    assert scheduler.queue_depth() == (0, 0)
    gate.open.set()
    assert scheduler.submit([row(4, 2)], None).result(PATIENCE_S).outputs.tolist() == [2]
    assert [50] not in gate.calls


def test_closing_answers_everybody(make: Callable[..., Scheduler]) -> None:
    """Who waits at once, and those whose rows every lane computes after their call."""
    gate = Gate()
    scheduler = make(gate, lanes=2)
    running = scheduler.submit([row(3), row(900)], None)
    wait_until(lambda: len(gate.calls) == 2)
    waiting = scheduler.submit([row(5)], None)
    closer = threading.Thread(target=scheduler.close)
    closer.start()
    with pytest.raises(ModelClosed):
        waiting.result(PATIENCE_S)
    assert not running.done()
    gate.open.set()
    closer.join(PATIENCE_S)
    assert not closer.is_alive()
    assert running.result(0).outputs.tolist() == [1, 1]
    with pytest.raises(ModelClosed):
        scheduler.submit([row(5)], None)


def test_within_the_window_rows_wait_for_more_rows(
    make: Callable[..., Scheduler], clock: Clock
) -> None:
    engine = Timed(clock, 0.0)
    scheduler = make(engine, window_s=0.01)
    first = scheduler.submit([row(10)], None)
    clock.advance(0.005)
    reads = clock.reads
    wait_until(lambda: clock.reads > reads + 2)  # its thread looks whether the window is over
    assert not engine.calls
    others = [scheduler.submit([row(10)], None) for _ in range(2)]
    assert scheduler.queue_depth() == (3, 30)
    clock.advance(0.006)  # the window of the first is over
    for future in (first, *others):
        future.result(PATIENCE_S)
    assert engine.calls == [[10, 10, 10]]


def test_a_full_batch_has_nobody_to_wait_for(make: Callable[..., Scheduler]) -> None:
    """The clock stands still: the window never ends."""
    full = [row(10)] * LIMITS.max_rows
    scheduler = make(first_ids, window_s=0.01)
    assert len(scheduler.submit(full, None).result(PATIENCE_S).outputs) == LIMITS.max_rows


def test_closing_does_not_wait_for_the_window(make: Callable[..., Scheduler]) -> None:
    scheduler = make(first_ids, window_s=1e6)
    future = scheduler.submit([row(10)], None)
    assert scheduler.close()
    with pytest.raises(ModelClosed):
        future.result(0)


def test_a_new_scheduler_predicts_by_the_one_before(
    make: Callable[..., Scheduler], clock: Clock
) -> None:
    before = make(Timed(clock, 0.01))
    for _ in range(8):
        before.submit([row(10)], None).result(PATIENCE_S)
    soon = clock() + 60
    vast = [row(1000)] * 100  # 100 s at a millisecond a token
    make(first_ids).submit(vast, soon).result(PATIENCE_S)  # nothing is known: it is tried
    follower = make(first_ids)
    follower.inherit_estimates(before)
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
    with scheduler.admit(3, 30, None):
        assert not scheduler.idle()
        with pytest.raises(Overloaded):
            scheduler.admit(2, 20, None)
    with scheduler.admit(4, 40, None):
        pass
    assert scheduler.submit([row(5)] * 4, None) is not None


def test_a_large_request_does_not_hold_up_small_ones(make: Callable[..., Scheduler]) -> None:
    scheduler, gate = blocked(make)
    large = scheduler.submit([row(900, i) for i in range(20)], None)
    small = [scheduler.submit([row(10, i)], None) for i in range(3)]
    gate.open.set()
    for future in small:
        future.result(PATIENCE_S)
    large.result(PATIENCE_S)
    # The large one came first and has the first call, the small ones share the second.
    assert gate.calls[1:3] == [[900], [10, 10, 10]]


def test_a_stream_of_small_requests_does_not_hold_up_a_large_one(
    make: Callable[..., Scheduler],
) -> None:
    """Three more come during every call."""
    ended = threading.Event()
    calls = 0

    def compute(rows: Sequence[Encoding]) -> Floats:
        nonlocal calls
        calls += 1
        if large.done() or calls > 1000:
            ended.set()
        else:
            for _ in range(3):
                scheduler.submit([row(10)], None)
        return first_ids(rows)

    gate = Gate(compute)
    scheduler = make(gate, queue_rows=1000)
    large = scheduler.submit([row(900, i) for i in range(5)], None)
    gate.open.set()
    assert ended.wait(PATIENCE_S)
    assert calls <= 1000


def test_when_time_is_short_the_oldest_goes_first(
    make: Callable[..., Scheduler], clock: Clock
) -> None:
    gate = Gate(Timed(clock, 0.1))
    gate.open.set()
    scheduler = make(gate)
    for _ in range(10):
        scheduler.submit([row(900)], None).result(PATIENCE_S)
    gate.open.clear()
    gate.entered.clear()
    scheduler.submit([row(900)], None)
    assert gate.entered.wait(PATIENCE_S)
    calls = len(gate.calls)
    soon = clock() + 0.65  # 0.6 s are needed
    large = scheduler.submit([row(900, i) for i in range(5)], soon)
    small = [scheduler.submit([row(10, i)], soon + 60) for i in range(3)]
    gate.open.set()
    for future in (large, *small):
        future.result(PATIENCE_S)
    assert gate.calls[calls : calls + 5] == [[900]] * 5


def test_how_long_a_call_runs(make: Callable[..., Scheduler], clock: Clock) -> None:
    scheduler, gate = blocked(make)
    clock.advance(7)
    assert scheduler.running_s() == 7
    gate.open.set()
    wait_until(scheduler.idle)
    assert scheduler.running_s() == 0


class Meeting:
    """A compute function that returns when `guests` calls are under way at the same time."""

    def __init__(self, guests: int) -> None:
        self.calls: list[list[int]] = []
        self._barrier = threading.Barrier(guests)

    def __call__(self, rows: Sequence[Encoding]) -> Floats:
        self.calls.append([len(r) for r in rows])
        self._barrier.wait(PATIENCE_S)
        return first_ids(rows)


def test_lanes_compute_beside_each_other_and_share_the_rows(make: Callable[..., Scheduler]) -> None:
    meeting = Meeting(2)
    rows = [row(10, number) for number in range(1, 7)]
    outputs = make(meeting, lanes=2).submit(rows, None).result(PATIENCE_S).outputs
    assert outputs.tolist() == [1, 2, 3, 4, 5, 6]
    assert meeting.calls == [[10] * 3, [10] * 3]


def test_a_row_without_tokens_is_answered(make: Callable[..., Scheduler]) -> None:
    empty = Encoding(np.asarray([], dtype=np.int64), None)
    scheduler = make(lambda rows: np.zeros(len(rows), dtype=np.float32))
    assert scheduler.submit([empty], None).result(PATIENCE_S).outputs.tolist() == [0]
    assert scheduler.alive()
