"""`make overload`: latency of accepted and refused requests at four times the sustainable load.

Measures first one caller alone, then as many as keep the engine busy: the unloaded p99 and the
sustainable rate. Then a server whose queue holds RERANK_MAX_QUEUE_TOKENS for one second at that
rate gets arrivals at four times the rate, whether or not earlier requests were answered. Accepted
requests should take at most twice the unloaded time plus three times the queue's bound (tokens that
may wait, at the speed measured in the overload), and refusals under 50 ms: both the median and the
p99. Requests take turns, so queued ones are half computed on average: the waiting rows are half of
their tokens, and an accepted request waits for two queues' worth of work, by chance more.

A p99 is judged from a hundred requests on: with fewer it is just the slowest. On a machine that
other processes use, a limit that holds is still a pass; one that is exceeded says nothing, nor do
arrivals without a refusal: the sustainable rate may have been measured too low. The check then ends
as not possible here. Statuses and Retry-After are judged everywhere.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from checks.load import DIALECTS, arrive, keep_busy, make_corpus
from checks.others import MAX_OTHER_SHARE, Others, need_quiet
from checks.serving import Server

_PASSAGES = 24
_CALLERS = 4
_CALIBRATE_S = 8.0
_QUEUE_S = 1.0
_QUEUES = 3
_FACTOR = 4.0
_REFUSAL_S = 0.05
_UNLOADED = 120
# With fewer requests the p99 is just the slowest.
_ENOUGH = 100
_T = TypeVar("_T")


@dataclass(frozen=True)
class Answered:
    """A status, and the seconds from the first byte sent to the last one received."""

    status: int
    seconds: float
    retry_after: bool


@dataclass(frozen=True)
class Bound:
    """Limits in seconds for the median and the p99."""

    p50: float
    p99: float


@dataclass(frozen=True)
class Rate:
    """Requests and real tokens per second."""

    requests: float
    tokens: float


def main() -> int:
    """0 when the bounds held."""
    parser = argparse.ArgumentParser(prog="python -m checks.overload", description=__doc__)
    parser.add_argument("--rank", type=Path, default=Path("artifacts/rank"))
    parser.add_argument("--seconds", type=float, default=20.0, help="of overload")
    chosen = parser.parse_args()
    bodies = _bodies(chosen.rank)
    given = {"RERANK_MODEL_DIR": str(chosen.rank.resolve()), "NIM_LOG_LEVEL": "WARNING"}
    with Server(given) as server:
        server.ready()
        unloaded, alone = _beside(_alone(server, bodies))
        rate, calibrating = _beside(_sustained(server, bodies))
    queue_tokens = int(rate.tokens * _QUEUE_S)
    with Server({**given, "RERANK_MAX_QUEUE_TOKENS": str(queue_tokens)}) as server:
        server.ready()
        _, learning = _beside(_sustained(server, bodies))  # the server learns its throughput
        (found, during), overloaded = _beside(_overload(server, bodies, rate, chosen.seconds))
    others = max(alone, calibrating, learning, overloaded)
    return _judge(unloaded, rate, queue_tokens, found, during, others)


def _beside(measured: Coroutine[Any, Any, _T]) -> tuple[_T, float]:
    """What is measured, and the share of the machine that others took meanwhile."""
    others = Others()
    return asyncio.run(measured), others.share()


def _bodies(artifact: Path) -> list[bytes]:
    """Distinct requests, so that no computation is shared."""
    corpus = make_corpus(artifact)
    _, body, _ = DIALECTS[0]
    return [
        json.dumps(
            body(f"{corpus.queries[0]} {n}", [f"{t} {n}" for t in corpus.passages[:_PASSAGES]])
        ).encode()
        for n in range(200)
    ]


async def _ask(server: Server, body: bytes) -> Answered:
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = (
        "POST /v1/ranking HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    found = await reader.read()
    writer.close()
    seconds = time.monotonic() - began
    return Answered(int(found.split(b" ", 2)[1]), seconds, b"retry-after:" in found.lower())


async def _alone(server: Server, bodies: list[bytes]) -> Bound:
    """Latency of one caller alone."""
    for body in bodies[:10]:
        await _ask(server, body)
    taken = [(await _ask(server, body)).seconds for body in bodies[:_UNLOADED]]
    return Bound(*map(float, np.percentile(taken, (50, 99))))


async def _sustained(server: Server, bodies: list[bytes]) -> Rate:
    """Throughput of the server while a few callers keep it busy."""
    before, began = _tokens(server), time.monotonic()
    requests = await keep_busy(
        lambda number: _ask(server, bodies[number % len(bodies)]), _CALLERS, _CALIBRATE_S
    )
    return Rate(requests, (_tokens(server) - before) / (time.monotonic() - began))


async def _overload(
    server: Server, bodies: list[bytes], rate: Rate, seconds: float
) -> tuple[list[Answered], Rate]:
    """Send requests at regular times, however many are unanswered."""
    pause_s = 1 / (rate.requests * _FACTOR)
    before, began = _tokens(server), time.monotonic()
    asked = await arrive(
        lambda number: _ask(server, bodies[number % len(bodies)]),
        [pause_s] * int(seconds / pause_s),
    )
    found = await asyncio.gather(*asked)
    took = time.monotonic() - began
    answered = sum(one.status == 200 for one in found)
    return found, Rate(answered / took, (_tokens(server) - before) / took)


def _tokens(server: Server) -> float:
    """Real tokens computed since the start."""
    return server.counted("rerank_engine_tokens_total{", 'padding="false"')


def _judge(
    unloaded: Bound,
    rate: Rate,
    queue_tokens: int,
    found: list[Answered],
    during: Rate,
    others: float,
) -> int:
    accepted = [one.seconds for one in found if one.status == 200]
    refused = [one.seconds for one in found if one.status in (429, 503)]
    strange = sorted({one.status for one in found} - {200, 429, 503})
    queue_s = _QUEUES * queue_tokens / during.tokens
    bound = Bound(2 * unloaded.p50 + queue_s, 2 * unloaded.p99 + queue_s)
    print(f"alone      p50 {unloaded.p50 * 1e3:.0f}, p99 {unloaded.p99 * 1e3:.0f} ms")
    print(f"sustained  {rate.requests:.1f} requests/s, {rate.tokens:.0f} tokens/s")
    print(f"overload   {len(found)} requests at {rate.requests * _FACTOR:.1f}/s")
    print(f"computed   {during.requests:.1f} requests/s, {during.tokens:.0f} tokens/s")
    print(f"others     took {others:.0%} of the machine")
    faults = [f"found statuses {strange}"] if strange else []
    if not accepted:
        faults.append("no request was accepted")
    if not all(one.retry_after for one in found if one.status in (429, 503)):
        faults.append("a refusal without Retry-After")
    late = [] if refused else ["no request was refused"]
    late += _too_slow("accepted", accepted, bound)
    late += _too_slow("refused", refused, Bound(_REFUSAL_S, _REFUSAL_S))
    return _verdict(faults, late, others)


def _verdict(faults: list[str], late: list[str], others: float) -> int:
    """1 for a fault, and for late or missing refusals on an otherwise idle machine."""
    excused = late and not faults and others > MAX_OTHER_SHARE
    for fault in faults + late:
        print(f"{'late' if excused else 'FAULT':10} {fault}")
    if excused:
        need_quiet(others)
    return 1 if faults or late else 0


def _too_slow(name: str, seconds: list[float], bound: Bound) -> list[str]:
    """Print the latencies of these requests; returns those above the limit as faults."""
    bounds = f"bounds {bound.p50 * 1e3:.0f} and {bound.p99 * 1e3:.0f} ms"
    print(f"{name:10} {len(seconds)}, {_percentiles(seconds)}; {bounds}")
    if not seconds:
        return []
    median, late = np.percentile(seconds, (50, 99))
    faults = [f"the median of the {name} is above the bound"] if median > bound.p50 else []
    if len(seconds) < _ENOUGH:
        print(f"{'':10} p99 not judged: {len(seconds)} requests")
    elif late > bound.p99:
        faults.append(f"the p99 of the {name} is above the bound")
    return faults


def _percentiles(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    parts = [f"{n} {np.percentile(seconds, p) * 1e3:.0f}" for n, p in (("p50", 50), ("p99", 99))]
    return f"{', '.join(parts)}, max {max(seconds) * 1e3:.0f} ms"


if __name__ == "__main__":
    sys.exit(main())
