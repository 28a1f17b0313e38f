"""Concurrent engine calls on a CPU: one call on all cores, or one call for each core.

Single-threaded calls are more efficient than multi-threaded ones, the more so the smaller the
layers are. With two cores, rows of MiniLM run 1.2 times (float32) to 1.5 times (int8) as fast with
one row for each core. So a small model is opened twice: the `wide` session uses many cores for a
call that is alone, `narrow` sessions use one core for each of several calls (see `placement`).
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar

from runtime.cores import Cores
from runtime.engines import AnyShape, Arrays, Outputs
from runtime.engines.placement import Lane, Placement
from runtime.errors import EngineError

# After an overlap of calls, `wide` stays unused for this long: a call that is alone between two
# others must not take their cores.
_CROWDED_S = 0.05

T = TypeVar("T")


class Lanes(Generic[T]):
    """A pool of sessions, each used by one call at a time. `clock` gives seconds.

    `wide` may be the first of `narrow` as well.
    """

    def __init__(
        self, wide: T, narrow: Sequence[T] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.count = max(1, len(narrow))
        self._wide = wide
        self._narrow = narrow
        self._free = set(range(len(narrow)))
        self._running = 0
        self._clock = clock
        self._last_overlap = -_CROWDED_S
        self._lock = threading.Lock()

    @contextmanager
    def take(self) -> Iterator[T]:
        """The wide session for a call that is alone, else a narrow one. Up to `count` threads."""
        now, lane = self._clock(), None
        with self._lock:
            if self._running:
                self._last_overlap = now
            alone = now - self._last_overlap >= _CROWDED_S
            self._running += 1
            if self._narrow and not alone:
                lane = max(self._free)  # the first one last: it may be the wide one
                self._free.remove(lane)
        try:
            yield self._wide if lane is None else self._narrow[lane]
        finally:
            with self._lock:
                self._running -= 1
                if lane is not None:
                    self._free.add(lane)


class Pinned:
    """A session whose calls, and the threads that it was opened with, stay on `cores`. Linux only,
    as everything that knows of NUMA nodes."""

    def __init__(self, open_session: Callable[[], Any], cores: Cores) -> None:
        self._cores = cores
        with self._on_its_cores():
            self._session = open_session()

    def run(self, *args: Any) -> Any:
        """The session's `run`."""
        with self._on_its_cores():
            return self._session.run(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    @contextmanager
    def _on_its_cores(self) -> Iterator[None]:
        """Threads inherit the affinity of the one that starts them; this one gets its own back."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self._cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


def open_lanes(placement: Placement, open_session: Callable[[int], Any]) -> Lanes[Any]:
    """The lanes of `placement`; `open_session` takes a number of threads. Lanes that may run on the
    same cores share a session, which several calls may use at the same time."""
    opened: dict[Lane, Any] = {}
    for lane in (placement.alone, *placement.lanes):
        if lane not in opened:
            opening = partial(open_session, lane.threads)
            opened[lane] = Pinned(opening, lane.cores) if placement.pinned else opening()
    narrow = [opened[lane] for lane in placement.lanes]
    return Lanes(opened[placement.alone], narrow if len(narrow) > 1 else ())


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
