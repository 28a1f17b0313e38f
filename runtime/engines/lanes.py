"""How many calls an engine computes beside each other on a CPU, and on what.

A call on one thread wastes less than a call on all of them, the more so the smaller a model's
layers are: with two cores, rows of MiniLM are computed 1.2 times (float32) to 1.5 times (int8) as
fast one to a core. So a small model is opened twice: the `wide` way takes all cores for a call that
is alone, a narrow one takes one core for each of several calls.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from runtime.cores import usable_cores

# Two copies of weights up to here cost less than cores that wait for each other. Products of
# larger matrices keep all cores busy by themselves.
_SMALL_BYTES = 256 << 20
# Calls that met this short a time ago will meet again: one that finds itself alone between two
# others must not spread over their cores.
_CROWDED_S = 0.05

T = TypeVar("T")


class Lanes(Generic[T]):
    """The ways that a call can take; a way is used by one call at a time. `clock` gives seconds."""

    def __init__(
        self, wide: T, narrow: Sequence[T] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.count = max(1, len(narrow))
        self._wide = wide
        self._narrow = list(narrow)
        self._under_way = 0
        self._clock = clock
        self._met = -_CROWDED_S
        self._lock = threading.Lock()

    @contextmanager
    def take(self) -> Iterator[T]:
        """The wide way for a call that is alone, else a narrow one; for up to `count` callers."""
        now = self._clock()
        with self._lock:
            if self._under_way:
                self._met = now
            alone = now - self._met >= _CROWDED_S
            self._under_way += 1
            way = self._wide if alone or not self._narrow else self._narrow.pop()
        try:
            yield way
        finally:
            with self._lock:
                self._under_way -= 1
                if way is not self._wide:
                    self._narrow.append(way)


def lanes_for(model_file: Path) -> int:
    """How many calls at a time suit the graph, whose weights may lie in files beside it."""
    parts = model_file.parent.glob(f"{model_file.name}*")
    small = sum(file.stat().st_size for file in parts if file.is_file()) <= _SMALL_BYTES
    return usable_cores() if small else 1
