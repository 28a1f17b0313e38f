"""`make overload`: what accepted and refused requests see at four times the sustainable load.

First one caller alone, then as many as keep the engine busy: the unloaded p99 and the sustainable
rate. Then a server whose queue holds RERANK_MAX_QUEUE_TOKENS for one second at that rate, and
arrivals at four times the rate, whether or not the ones before were answered. Accepted requests
should take at most twice what they take unloaded and thrice the queue's bound (tokens that may
wait, at the speed measured in the overload), and refusals be told in under 50 ms: the median, and
the p99. Requests take turns, so those in a full queue are half computed on average: what waits in
it is half of what they brought, and an accepted one sees twice the queue go by, by chance more.

A p99 is judged from a hundred requests on: of fewer it is the slowest alone. Where other processes
use the machine a bound that holds still says that the server keeps it; one that does not says
nothing, nor do arrivals of which none was refused: the rate that they are four times of may have
been measured while others took part of it. The check then ends as not possible here. Statuses and
Retry-After are judged everywhere.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from checks.faults.own import OwnServer, started
from checks.here import not_here
from checks.load import DIALECTS, make_corpus
from checks.others import MUCH, Others

_PASSAGES = 24
_CALLERS = 4
_CALIBRATE_S = 8.0
_QUEUE_S = 1.0
_QUEUES = 3
_FACTOR = 4.0
_REFUSAL_S = 0.05
_UNLOADED = 120
# Fewer requests have no p99 but their slowest.
_ENOUGH = 100


@dataclass(frozen=True)
class Answered:
    """A status, and the seconds from the first byte sent to the last one received."""

    status: int
    seconds: float
    retry_after: bool


@dataclass(frozen=True)
class Bound:
    """Seconds that half of the requests, and 99 in 100, may take."""

    p50: float
    p99: float


@dataclass(frozen=True)
class Rate:
    """Requests and real tokens a second."""

    requests: float
    tokens: float


def main() -> int:
    """0 when the bounds held."""
    parser = argparse.ArgumentParser(prog="python -m checks.overload", description=__doc__)
    parser.add_argument("--rank", type=Path, default=Path("artifacts/rank"))
    parser.add_argument("--seconds", type=float, default=20.0, help="of overload")
    chosen = parser.parse_args()
    bodies = _bodies(chosen.rank)
    given = {"RERANK_MODEL_DIR": str(chosen.rank), "NIM_LOG_LEVEL": "WARNING"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with started(folder, given) as server:
            server.ready()
            before = Others()
            unloaded = asyncio.run(_alone(server, bodies))
            others = [before.share()]
            before = Others()
            rate = asyncio.run(_sustained(server, bodies))
            others.append(before.share())
        queue_tokens = int(rate.tokens * _QUEUE_S)
        given["RERANK_MAX_QUEUE_TOKENS"] = str(queue_tokens)
        with started(folder, given) as server:
            server.ready()
            before = Others()
            asyncio.run(_sustained(server, bodies))  # the server learns its speed
            others.append(before.share())
            before = Others()
            found, during = asyncio.run(_overload(server, bodies, rate, chosen.seconds))
            others.append(before.share())
    return _judge(unloaded, rate, queue_tokens, found, during, max(others))


def _bodies(artifact: Path) -> list[bytes]:
    """Requests that are all different, so that none is computed for another."""
    corpus = make_corpus(artifact)
    _, body, _ = DIALECTS[0]
    return [
        json.dumps(
            body(f"{corpus.queries[0]} {n}", [f"{t} {n}" for t in corpus.passages[:_PASSAGES]])
        ).encode()
        for n in range(200)
    ]


async def _ask(server: OwnServer, body: bytes) -> Answered:
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


async def _alone(server: OwnServer, bodies: list[bytes]) -> Bound:
    """What one caller alone sees."""
    for body in bodies[:10]:
        await _ask(server, body)
    taken = [(await _ask(server, body)).seconds for body in bodies[:_UNLOADED]]
    return Bound(*map(float, np.percentile(taken, (50, 99))))


async def _sustained(server: OwnServer, bodies: list[bytes]) -> Rate:
    """What the server computes while a few callers keep it busy."""
    before, began = _tokens(server), time.monotonic()
    end = began + _CALIBRATE_S

    async def call(number: int) -> int:
        done = 0
        while time.monotonic() < end:
            await _ask(server, bodies[(number + done * _CALLERS) % len(bodies)])
            done += 1
        return done

    answered = sum(await asyncio.gather(*map(call, range(_CALLERS))))
    took = time.monotonic() - began
    return Rate(answered / took, (_tokens(server) - before) / took)


async def _overload(
    server: OwnServer, bodies: list[bytes], rate: Rate, seconds: float
) -> tuple[list[Answered], Rate]:
    """Arrivals at regular times, however many are unanswered."""
    pause_s = 1 / (rate.requests * _FACTOR)
    before, began = _tokens(server), time.monotonic()
    asked = []
    for number in range(int(seconds / pause_s)):
        await asyncio.sleep(max(0.0, began + number * pause_s - time.monotonic()))
        asked.append(asyncio.create_task(_ask(server, bodies[number % len(bodies)])))
    found = await asyncio.gather(*asked)
    took = time.monotonic() - began
    answered = sum(one.status == 200 for one in found)
    return found, Rate(answered / took, (_tokens(server) - before) / took)


def _tokens(server: OwnServer) -> float:
    """Real tokens computed since the start."""
    text = server.http.get("/v1/metrics").text
    lines = [x for x in text.splitlines() if x.startswith("rerank_engine_tokens_total{")]
    return sum(float(line.split()[-1]) for line in lines if 'padding="false"' in line)


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
    """1 for a fault, and for what was late, or too little, on a machine that was left to us."""
    excused = late and not faults and others > MUCH
    for fault in faults + late:
        print(f"{'late' if excused else 'FAULT':10} {fault}")
    if excused:
        not_here(f"other processes took {others:.0%} of the machine, wanted {MUCH:.0%}")
    return 1 if faults or late else 0


def _too_slow(name: str, seconds: list[float], bound: Bound) -> list[str]:
    """Print how long the requests of this name took; what of it is above the bound."""
    bounds = f"bounds {bound.p50 * 1e3:.0f} and {bound.p99 * 1e3:.0f} ms"
    print(f"{name:10} {len(seconds)}, {_told(seconds)}; {bounds}")
    if not seconds:
        return []
    median, late = np.percentile(seconds, (50, 99))
    faults = [f"the median of the {name} is above the bound"] if median > bound.p50 else []
    if len(seconds) < _ENOUGH:
        print(f"{'':10} p99 not judged: {len(seconds)} requests")
    elif late > bound.p99:
        faults.append(f"the p99 of the {name} is above the bound")
    return faults


def _told(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    parts = [f"{n} {np.percentile(seconds, p) * 1e3:.0f}" for n, p in (("p50", 50), ("p99", 99))]
    return f"{', '.join(parts)}, max {max(seconds) * 1e3:.0f} ms"


if __name__ == "__main__":
    sys.exit(main())
