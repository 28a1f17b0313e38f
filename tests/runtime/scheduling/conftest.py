"""Schedulers on a clock that only tests move."""

from collections.abc import Callable, Iterator, Sequence

import pytest

from runtime.postprocess import Floats
from runtime.scheduling import scheduler as scheduler_module
from runtime.scheduling.admission import QueueLimits
from runtime.scheduling.scheduler import Scheduler
from runtime.text import Encoding
from tests.runtime.clock import Clock
from tests.runtime.scheduling.schedulers import LIMITS, Gate, row
from tests.waiting import PATIENCE_S


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Callable[..., Scheduler]]:
    """Makes schedulers on `clock`, whose calls take no time unless they move it."""
    monkeypatch.setattr(scheduler_module, "_CLOSE_PATIENCE_S", PATIENCE_S)
    made: list[tuple[Scheduler, object]] = []

    def build(
        compute: Callable[[Sequence[Encoding]], Floats],
        queue_rows: int = 100,
        queue_tokens: int = 100_000,
        window_s: float = 0.0,
        lanes: int = 1,
    ) -> Scheduler:
        queue = QueueLimits(queue_rows, queue_tokens)
        scheduler = Scheduler(compute, LIMITS, queue, window_s, lanes, clock)
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
    assert gate.entered.wait(PATIENCE_S)
    return scheduler, gate
