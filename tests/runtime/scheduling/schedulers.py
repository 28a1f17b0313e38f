"""Schedulers for tests: made rows, held engines."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from runtime.batch import BatchLimits
from runtime.postprocess import Floats
from runtime.scheduling.admission import QueueLimits
from runtime.scheduling.scheduler import Scheduler
from runtime.text import Encoding
from tests.waiting import PATIENCE_S

LIMITS = BatchLimits(max_rows=8, token_budget=1000, padding_waste=0.4)
NO_BOUND = QueueLimits(1 << 20, 1 << 30)


def row(length: int, first: int = 1) -> Encoding:
    """A row of so many tokens, whose first has this id."""
    return Encoding(np.asarray([first] + [1] * (length - 1), dtype=np.int64), None)


def first_ids(rows: Sequence[Encoding]) -> Floats:
    """A computation that tells rows apart."""
    return np.asarray([r.token_ids[0] for r in rows], dtype=np.float32)


class Gate:
    """A compute function that waits until it is opened, and remembers its calls."""

    def __init__(self, then: Callable[[Sequence[Encoding]], Floats] = first_ids) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.calls: list[list[int]] = []
        self.firsts: list[list[int]] = []
        self._then = then

    def __call__(self, rows: Sequence[Encoding]) -> Floats:
        self.calls.append([len(r) for r in rows])
        self.firsts.append([int(r.token_ids[0]) for r in rows])
        self.entered.set()
        assert self.open.wait(PATIENCE_S)
        return self._then(rows)


@contextmanager
def held(gate: Gate, queue: QueueLimits = NO_BOUND, **options: Any) -> Iterator[Scheduler]:
    """A scheduler whose engine is busy with one row until the gate opens, at last at the end."""
    scheduler = Scheduler(gate, LIMITS, queue, **options)
    try:
        scheduler.submit([row(3)], None)
        assert gate.entered.wait(PATIENCE_S)
        yield scheduler
    finally:
        gate.open.set()
        scheduler.close()
