"""Concurrent engine calls on a CPU: one call on all cores, or one call for each core.

Single-threaded calls are more efficient than multi-threaded ones, the more so the smaller the
layers are. With two cores, rows of MiniLM run 1.2 times (float32) to 1.5 times (int8) as fast with
one row for each core. So a small model is opened twice: the `wide` session uses all cores for a
call that is alone, `narrow` sessions use one core for each of several calls.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from runtime.cores import usable_cores
from runtime.engines import AnyShape, Arrays, Outputs
from runtime.errors import EngineError

# Up to this size a second copy of the weights is worth its memory. Matrix products of larger models
# keep all cores busy by themselves.
_SMALL_BYTES = 256 << 20
# After an overlap of calls, `wide` stays unused for this long: a call that is alone between two
# others must not take their cores.
_CROWDED_S = 0.05

T = TypeVar("T")


class Lanes(Generic[T]):
    """A pool of sessions, each used by one call at a time. `clock` gives seconds."""

    def __init__(
        self, wide: T, narrow: Sequence[T] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.count = max(1, len(narrow))
        self._wide = wide
        self._narrow = list(narrow)
        self._running = 0
        self._clock = clock
        self._last_overlap = -_CROWDED_S
        self._lock = threading.Lock()

    @contextmanager
    def take(self) -> Iterator[T]:
        """The wide session for a call that is alone, else a narrow one. Up to `count` threads."""
        now = self._clock()
        with self._lock:
            if self._running:
                self._last_overlap = now
            alone = now - self._last_overlap >= _CROWDED_S
            self._running += 1
            session = self._wide if alone or not self._narrow else self._narrow.pop()
        try:
            yield session
        finally:
            with self._lock:
                self._running -= 1
                if session is not self._wide:
                    self._narrow.append(session)


class LaneEngine(AnyShape, Generic[T]):
    """One graph on the CPU, its calls each in a session of `lanes`."""

    device = "cpu"

    def __init__(
        self, name: str, version: str, inputs: list[str], outputs: list[str], lanes: Lanes[T]
    ) -> None:
        self.name = name
        self.version = version
        self.lanes = lanes.count
        self.input_names = inputs
        self.output_names = outputs
        self._lanes: Lanes[T] | None = lanes

    def run(self, inputs: Arrays) -> Outputs:
        """All outputs of the graph, by name. Raises EngineError."""
        assert self._lanes is not None
        try:
            with self._lanes.take() as session:
                return self._call(session, inputs)
        except Exception as error:  # the libraries raise unrelated classes of their own
            raise EngineError(f"{self.name} failed: {error}") from error

    def _call(self, session: T, inputs: Arrays) -> Outputs:
        raise NotImplementedError

    def close(self) -> None:
        """Drop the sessions; their memory is freed with the last reference."""
        self._lanes = None


def lanes_for(model_file: Path) -> int:
    """The number of concurrent calls for a graph, by the size of its weights, which may lie in
    files beside it."""
    parts = model_file.parent.glob(f"{model_file.name}*")
    small = sum(file.stat().st_size for file in parts if file.is_file()) <= _SMALL_BYTES
    return usable_cores() if small else 1
