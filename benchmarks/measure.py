"""The measuring loop: candidates take turns at the same load."""

import queue
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import fmean, median

from benchmarks.environments import PeerMissing
from benchmarks.machine import Usage
from benchmarks.progress import print_line
from benchmarks.results import Measured, Point, Sample, rates
from benchmarks.roster import Candidate
from benchmarks.sessions import CandidateFailed, Pool, Session

# A turn that would take longer than this, by the rate of an earlier load, is skipped.
MAX_TURN_S = 120.0
_WARM_PASSAGES = 2


@dataclass(frozen=True)
class Load:
    """Requests for one query, sent by several clients, each with one request in flight; repeated
    until `least_s` have passed, because a turn of a few milliseconds would measure noise."""

    query: str
    requests: tuple[tuple[str, ...], ...]
    clients: int = 1
    least_s: float = 0.0


def alternate(
    pool: Pool, candidates: Sequence[Candidate], load: Load, point: Point, repeats: int
) -> None:
    """Fill `point.measured`: every candidate once per repeat, in turn, in alternating order.

    A candidate that fails keeps its samples and takes no more turns.
    """
    for candidate in candidates:
        point.measured.setdefault(candidate.name, Measured())
    for repeat in range(repeats):
        order = candidates if repeat % 2 == 0 else list(reversed(candidates))
        for candidate in order:
            measured = point.measured[candidate.name]
            if not measured.failure:
                _one_turn(pool, candidate, load, point, measured)


def _one_turn(
    pool: Pool, candidate: Candidate, load: Load, point: Point, measured: Measured
) -> None:
    if load.clients > 1 and not candidate.serves:
        measured.failure = "no server: it has no clients"
        return
    try:
        with pool.turn(candidate) as (session, fresh):
            _warm_up(session, load, whole=fresh and pool.resident)
            sample = run(session, load)
    except (PeerMissing, CandidateFailed) as error:
        measured.failure = str(error)
        print_line(f"{point.label}: {candidate.name}: {measured.failure}")
        return
    measured.samples.append(sample)
    print_line(
        f"{point.label}: {candidate.name}: {sample.seconds:.3g} s, "
        f"{point.tokens / sample.seconds:.0f} tokens/s"
        + (f", others took {sample.foreign_cores:.1f} cores" * (sample.foreign_cores > 0.2))
    )


def _warm_up(session: Session, load: Load, *, whole: bool) -> None:
    """Untimed work: the whole load for a new process, so that every shape was seen; else the
    shortest passages, because caches went cold during the others' turns."""
    few = tuple(sorted(load.requests[0], key=len)[:_WARM_PASSAGES])
    requests = load.requests if whole else (few,)
    with closing(session.client()) as client:
        for passages in requests:
            client.score(load.query, list(passages))


def run(session: Session, load: Load) -> Sample:
    """Send the load and wait for all answers, once or more. Raises CandidateFailed."""
    rounds = [_run_once(session, load)]
    while sum(sample.seconds for sample in rounds) < load.least_s:
        rounds.append(_run_once(session, load))
    return Sample(
        seconds=fmean(sample.seconds for sample in rounds),
        latencies_s=[latency for sample in rounds for latency in sample.latencies_s],
        logits=rounds[0].logits,
        foreign_cores=fmean(sample.foreign_cores for sample in rounds),
    )


def _run_once(session: Session, load: Load) -> Sample:
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in range(len(load.requests)):
        waiting.put(index)
    work = _Work(session, load, waiting)
    threads = [threading.Thread(target=work.call) for _ in range(load.clients)]
    before = Usage.now(session.group)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = Usage.now(session.group)
    if work.failures:
        raise work.failures[0]
    return Sample(
        seconds=after.clock_s - before.clock_s,
        latencies_s=[work.latencies_s[i] for i in range(len(load.requests))],
        logits=[logit for i in range(len(load.requests)) for logit in work.logits[i]],
        foreign_cores=before.foreign_cores(after),
    )


class _Work:
    """State shared by the clients' threads."""

    def __init__(self, session: Session, load: Load, waiting: "queue.SimpleQueue[int]") -> None:
        self._session, self._load, self._waiting = session, load, waiting
        self.latencies_s: dict[int, float] = {}
        self.logits: dict[int, list[float]] = {}
        self.failures: list[CandidateFailed] = []

    def call(self) -> None:
        """One client: send requests until none is waiting or one has failed."""
        with closing(self._session.client()) as client:
            while not self.failures:
                try:
                    index = self._waiting.get_nowait()
                except queue.Empty:
                    return
                began = time.monotonic()
                try:
                    found = client.score(self._load.query, list(self._load.requests[index]))
                except CandidateFailed as error:
                    self.failures.append(error)
                    return
                self.latencies_s[index] = time.monotonic() - began
                self.logits[index] = found


def refuse_slow(candidates: Sequence[Candidate], point: Point, before: Point) -> None:
    """Note in `point` the candidates whose turn would take too long, by their rate at `before`."""
    for candidate in candidates:
        if found := rates(before, candidate.name):
            expected_s = point.tokens / median(found)
            if expected_s > MAX_TURN_S:
                reason = f"skipped: it would take about {expected_s:.0f} s a turn"
                point.measured[candidate.name] = Measured(failure=reason)
