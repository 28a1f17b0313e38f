"""Turns are counted by caller, and among the requests of one caller by request."""

from concurrent.futures import Future

import pytest

from runtime.scheduling import fairness
from runtime.scheduling.fairness import Callers, FairQueue
from runtime.scheduling.request import Request, Scored
from runtime.scheduling.scheduler import Scheduler
from tests.runtime.scheduling.schedulers import Gate, held, row
from tests.waiting import PATIENCE_S

OF_MANY, OF_FEW = 2, 3
MANY, FEW = 512, 40


def submit_many(scheduler: Scheduler, requests: int, lengths: int) -> "list[Future[Scored]]":
    """512 rows of one caller in so many requests, of so many different lengths."""
    rows = [row(10 + number % lengths, OF_MANY) for number in range(MANY)]
    share = MANY // requests
    return [
        scheduler.submit(rows[start : start + share], None, "many")
        for start in range(0, MANY, share)
    ]


@pytest.mark.parametrize("lengths", [1, 20])
@pytest.mark.parametrize("requests", [1, 8, MANY])
def test_a_caller_of_few_rows_has_half_of_the_engine(requests: int, lengths: int) -> None:
    """Beside one of many, in whatever requests these come."""
    gate = Gate()
    with held(gate) as scheduler:
        many = submit_many(scheduler, requests, lengths)
        rows = [row(10 + number % lengths, OF_FEW) for number in range(FEW)]
        few = scheduler.submit(rows, None, "few")
        gate.open.set()
        for future in (few, *many):
            future.result(PATIENCE_S)
    last = max(number for number, call in enumerate(gate.firsts) if OF_FEW in call)
    before = sum(call.count(OF_MANY) for call in gate.firsts[: last + 1])
    assert FEW // 2 <= before <= 2 * FEW


def test_many_callers_with_a_row_each_share_calls() -> None:
    """Fairness costs no company: rows of several callers run together."""
    gate = Gate()
    with held(gate) as scheduler:
        asked = [scheduler.submit([row(10)], None, f"caller {n}") for n in range(64)]
        gate.open.set()
        for future in asked:
            future.result(PATIENCE_S)
    assert [len(call) for call in gate.calls[1:]] == [8] * 8


def test_who_has_had_more_waits_until_the_others_have_had_as_much() -> None:
    queue: FairQueue[str] = FairQueue()
    for name in ("a", "b"):
        queue.join(name)
    queue.charge({"a": 100})
    assert queue.first() == "b"
    turn = queue.leave("a")
    assert turn == 100
    queue.join("a", turn)
    assert queue.first() == "b"
    queue.charge({"b": 99})
    assert queue.first() == "b"
    queue.charge({"b": 2})
    assert queue.first() == "a"
    # One who comes now is served as if it had had as much as the two on average.
    queue.join("c")
    assert queue.leave("c") is None


def request(caller: str) -> Request:
    return Request([row(10)], None, caller, 0.0)


def visit(callers: Callers, name: str, now: float, tokens_ahead: bool = True) -> None:
    """One request of `name` comes, is computed beside one that waits, and is gone."""
    one = request(name)
    (only,) = one.waiting
    callers.add(one, now)
    if tokens_ahead:
        callers.charge([only])
    callers.remove(only)
    callers.leave(one, now)


def test_callers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "_MOST_REMEMBERED", 10)
    callers = Callers()
    callers.add(request("waits"), 0.0)
    for number in range(100):
        visit(callers, f"caller {number}", 0.0)
    assert len(callers) == 1
    assert len(callers._left) == 10
    for number in range(6):  # each takes two along whose time is over
        visit(callers, f"late {number}", 61.0)
    assert set(callers._left) == {f"late {number}" for number in range(6)}


def test_a_caller_with_no_more_than_its_share_leaves_nothing_behind() -> None:
    callers = Callers()
    for number in range(100):
        visit(callers, f"caller {number}", 0.0, tokens_ahead=False)
    assert not callers._left


def test_a_caller_who_comes_back_keeps_its_count() -> None:
    callers = Callers()
    waits = request("waits")
    callers.add(waits, 0.0)
    for _ in range(3):
        visit(callers, "comes back", 0.0)
    callers.add(request("comes back"), 1.0)
    assert callers.first() is waits
