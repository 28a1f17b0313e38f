"""Thousands of requests that end together cost little each, and never hold the lock for long."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.errors import DeadlineExceeded, ModelClosed
from runtime.scheduling import backlog
from runtime.scheduling.priority import PriorityQueue
from runtime.scheduling.request import Scored
from runtime.scheduling.rows_by_length import RowsByLength
from tests.runtime.clock import Clock
from tests.runtime.scheduling.schedulers import Gate, held, row
from tests.waiting import PATIENCE_S, wait_until

MANY = 8000
# Rows that may leave under one hold.
ROWS_A_HOLD = 16
# Steps of one row: it leaves two orders by length, and its request one of turns and deadlines.
ONE_ROW = 60


class Watched:
    """A lock that counts the steps taken under it, `most` under one hold."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps = 0
        self.holder: int | None = None
        self.most = self.steps = self.is_held = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        taken = self._lock.acquire(blocking, timeout)
        if taken:
            self._steps, self.holder = 0, threading.get_ident()
        return taken

    def release(self) -> None:
        self.most, self.steps = max(self.most, self._steps), self.steps + self._steps
        self.is_held += 1
        self.holder = None
        self._lock.release()

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()

    def step(self) -> None:
        if self.holder == threading.get_ident():
            self._steps += 1

    def forget(self) -> None:
        self.most = self.steps = 0


def counting(lock: Watched, method: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*given: Any) -> Any:
        lock.step()
        return method(*given)

    return counted


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """The lock of schedulers that are made from now on."""
    watched = Watched()
    condition = threading.Condition
    monkeypatch.setattr(backlog, "threading", SimpleNamespace(Condition=lambda: condition(watched)))
    steps = [(RowsByLength, ("add", "remove")), (PriorityQueue, ("put", "discard"))]
    for kind, name in ((kind, name) for kind, names in steps for name in names):
        monkeypatch.setattr(kind, name, counting(watched, getattr(kind, name)))
    return watched


class Answers:
    """Counts who is answered, and who under the lock."""

    def __init__(self, lock: Watched, wanted: int) -> None:
        self.all, self.under_lock = threading.Semaphore(0), 0
        self._lock, self._wanted = lock, wanted

    def watch(self, future: "Future[Scored]") -> None:
        future.add_done_callback(self._count)

    def _count(self, _: "Future[Scored]") -> None:
        self.under_lock += self._lock.holder == threading.get_ident()
        self.all.release()

    def wait(self) -> None:
        for _ in range(self._wanted):
            assert self.all.acquire(timeout=PATIENCE_S)


@pytest.mark.parametrize("rows", [1, 1000])
@pytest.mark.parametrize("end", ["expire", "cancel", "close"])
def test_many_that_end_together(lock: Watched, end: str, rows: int) -> None:
    """As many requests of a row each, and a few large ones."""
    clock, gate = Clock(), Gate()
    requests = MANY // rows
    with held(gate, clock=clock) as scheduler:
        made = [row(10 + number % 300) for number in range(MANY)]
        asked = [
            scheduler.submit(made[start : start + rows], clock() + 1, str(start % 9))
            for start in range(0, MANY, rows)
        ]
        assert scheduler.queue_depth()[0] == MANY
        answers = Answers(lock, requests)
        for future in asked:
            answers.watch(future)
        lock.forget()
        closer = threading.Thread(target=scheduler.close)
        if end == "expire":
            clock.advance(2)
            gate.open.set()
        elif end == "cancel":
            assert all(future.cancel() for future in asked)
        else:
            closer.start()
        answers.wait()
        gate.open.set()
        if end == "close":
            closer.join(PATIENCE_S)
        wait_until(lambda: scheduler.queue_depth() == (0, 0))
    assert not answers.under_lock
    assert lock.most <= ROWS_A_HOLD * ONE_ROW
    assert lock.steps <= MANY * ONE_ROW
    errors = {"expire": DeadlineExceeded, "close": ModelClosed}
    if end in errors:
        assert {type(future.exception(0)) for future in asked} == {errors[end]}
    assert len(gate.calls) == 1


def test_what_a_call_takes_off_a_long_queue_is_little(lock: Watched) -> None:
    """Whatever waits: neighbours are found, not looked for."""
    gate = Gate()
    with held(gate) as scheduler:
        asked = [scheduler.submit([row(10 + n % 300)], None, str(n % 9)) for n in range(MANY)]
        lock.forget()
        gate.open.set()
        for future in asked:
            future.result(PATIENCE_S)
    assert lock.most <= 8 * ONE_ROW
