"""The measuring loop: candidates take turns at the same load."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from queue import SimpleQueue
from statistics import fmean, median

from benchmarks.environments import PeerMissing
from benchmarks.machine import cores
from benchmarks.progress import print_line
from benchmarks.results import Measured, Point, Sample, rates
from benchmarks.roster import Candidate
from benchmarks.sessions import CandidateFailed, Client, Pool, Session
from checks.others import Others

# A turn that would take longer than this, by the rate of an earlier load, is skipped.
MAX_TURN_S = 120.0
_WARM_PASSAGES = 2


@dataclass(frozen=True)
class Load:
    """Requests for one query, sent by several clients, each with one request in flight; repeated
    until `least_s` have passed, because a turn of a few milliseconds would measure noise.
    `token_counts` are those of all pairs, in order."""

    query: str
    requests: tuple[tuple[str, ...], ...]
    token_counts: tuple[int, ...]
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
        for candidate in candidates if repeat % 2 == 0 else reversed(candidates):
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
    with closing(Client(session)) as client:
        for passages in load.requests if whole else (few,):
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
    idle: SimpleQueue[Client] = SimpleQueue()

    def call(passages: Sequence[str]) -> tuple[float, list[float]]:
        """One request of a client that has none in flight: its seconds, and the logits."""
        client = idle.get()
        began = time.monotonic()
        try:
            logits = client.score(load.query, list(passages))
        finally:
            idle.put(client)
        return time.monotonic() - began, logits

    others, began = Others(), time.monotonic()
    with ExitStack() as stack, ThreadPoolExecutor(load.clients) as threads:
        for _ in range(load.clients):
            idle.put(stack.enter_context(closing(Client(session))))
        answers = list(threads.map(call, load.requests))  # after a failure it asks no more
        seconds = time.monotonic() - began
    return Sample(
        seconds=seconds,
        latencies_s=[latency_s for latency_s, _ in answers],
        logits=[logit for _, logits in answers for logit in logits],
        foreign_cores=others.share() * cores(),
    )


def refuse_slow(candidates: Sequence[Candidate], point: Point, before: Point) -> None:
    """Note in `point` the candidates whose turn would take too long, by their rate at `before`."""
    for candidate in candidates:
        if found := rates(before, candidate.name):
            expected_s = point.tokens / median(found)
            if expected_s > MAX_TURN_S:
                reason = f"skipped: it would take about {expected_s:.0f} s a turn"
                point.measured[candidate.name] = Measured(failure=reason)
