"""Tickets: room by an estimate, exchanged for the exact size, given back when unused."""

from concurrent.futures import CancelledError

import pytest

from runtime.errors import DeadlineExceeded, ModelClosed, Overloaded, TooLate
from runtime.scheduling.admission import QueueLimits
from runtime.scheduling.scheduler import Scheduler
from tests.runtime.clock import Clock
from tests.runtime.scheduling.schedulers import LIMITS, NO_BOUND, Gate, first_ids, held, row
from tests.waiting import PATIENCE_S


def test_the_estimate_does_not_count_beside_the_rows() -> None:
    with held(Gate(), QueueLimits(rows=4, tokens=50)) as scheduler:
        scheduler.submit([row(15)], None)
        with scheduler.admit(3, 30, None) as ticket:
            with pytest.raises(Overloaded):
                scheduler.admit(1, 1, None)
            ticket.submit([row(10)] * 3)
            assert scheduler.queue_depth() == (4, 45)
        with pytest.raises(Overloaded, match="holds 4 rows"):
            scheduler.admit(1, 1, None)


def test_the_exact_size_has_the_last_word() -> None:
    with held(Gate(), QueueLimits(rows=4, tokens=50)) as scheduler:
        scheduler.submit([row(15)], None)
        with (
            scheduler.admit(3, 30, None) as ticket,
            pytest.raises(Overloaded, match=r"holds 15 tokens and has room for 50.*brings 60"),
        ):
            ticket.submit([row(20)] * 3)
        assert scheduler.queue_depth() == (1, 15)
        scheduler.submit([row(35)], None)


def test_fewer_rows_than_expected_give_the_rest_of_the_room_back() -> None:
    queue = QueueLimits(rows=4, tokens=1000)
    with held(Gate(), queue) as scheduler, scheduler.admit(4, 40, None) as ticket:
        ticket.submit([row(10)])
        scheduler.submit([row(10)] * 3, None)


def test_an_unused_ticket_gives_its_room_back() -> None:
    with held(Gate(), QueueLimits(rows=4, tokens=1000)) as scheduler:
        with pytest.raises(ZeroDivisionError), scheduler.admit(4, 40, None):
            raise ZeroDivisionError
        scheduler.submit([row(10)] * 4, None)


def test_a_request_that_an_idle_scheduler_admitted_keeps_its_room() -> None:
    """Larger than the queue, it is not refused for what came while it was tokenised."""
    scheduler = Scheduler(first_ids, LIMITS, QueueLimits(rows=4, tokens=50))
    with scheduler.admit(40, 40, None) as ticket:
        with pytest.raises(Overloaded):
            scheduler.submit([row(10)], None)
        assert len(ticket.submit([row(10)] * 40).result(PATIENCE_S).outputs) == 40
    scheduler.close()


def measured(clock: Clock) -> Scheduler:
    """One that has measured a second for ten tokens."""

    def slow(rows: list[object]) -> object:
        clock.advance(len(rows))
        return first_ids(rows)  # type: ignore[arg-type]

    scheduler = Scheduler(slow, LIMITS, NO_BOUND, clock=clock)  # type: ignore[arg-type]
    for _ in range(8):
        scheduler.submit([row(10)], None).result(PATIENCE_S)
    return scheduler


def test_the_exact_size_says_what_is_too_late() -> None:
    clock = Clock()
    scheduler = measured(clock)
    with scheduler.admit(1, 1, clock() + 5) as ticket, pytest.raises(TooLate):
        ticket.submit([row(100)])
    assert scheduler.idle()
    scheduler.close()


def test_what_the_engine_does_not_compute_takes_none_of_its_time() -> None:
    clock = Clock()
    scheduler = measured(clock)
    with scheduler.admit(1, 1000, None), pytest.raises(Overloaded):
        scheduler.submit([row(10)], clock() + 5)
    with scheduler.admit(1, 1000, None, for_engine=False):
        scheduler.submit([row(10)], clock() + 5).result(PATIENCE_S)
    assert scheduler.idle()
    scheduler.close()


def test_a_ticket_says_when_its_work_is_in_vain() -> None:
    clock = Clock()
    scheduler = Scheduler(first_ids, LIMITS, NO_BOUND, clock=clock)
    with scheduler.admit(1, 1, clock() + 5) as ticket:
        ticket.check()
        clock.advance(5)
        with pytest.raises(DeadlineExceeded):
            ticket.check()
    with pytest.raises(CancelledError):
        ticket.check()
    with scheduler.admit(1, 1, None) as ticket:
        scheduler.close()
        with pytest.raises(ModelClosed):
            ticket.check()


def test_what_a_call_holds_takes_no_room() -> None:
    """Only what waits does: a queue must not refuse while the engine falls idle."""
    with held(Gate(), QueueLimits(rows=1, tokens=10)) as scheduler:
        scheduler.submit([row(10)], None)
