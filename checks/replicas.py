"""`make check-replicas`: how many replicas a load needs, computed and then tried.

The formula (docs/operations.md): replicas = ⌈ requests/s × tokens of a request / (tokens/s of one
replica × utilisation) ⌉. This check measures the tokens/s of one replica, chooses a load for which
the formula says two, and replays it, at random times, against one replica and against two. Each
replica has a core of its own. Replicas keep up when all but a few requests are answered when the
last one is due; the machine's speed sets the rate. Where other processes use the machine, or the
cores are two threads of one, two replicas that keep up still confirm the formula; anything else
says nothing, and the check ends as not possible here.
"""

import argparse
import asyncio
import math
import os
import random
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import httpx

from checks.here import not_here
from checks.load import arrive, keep_busy
from checks.others import Others, need_quiet
from checks.serving import served

UTILISATION = 0.7
# More than one replica can do, and less than two: the formula must say two.
LOAD = 1.2
# Minimum throughput of two replicas together, in multiples of one: below it they share a core.
APART = 1.6
# At these random times a replica with 20 % too much work has 24 unanswered when the last is due (10
# with 5 % too much), and two have 1 (5 when other processes take a third of their time).
REQUESTS, SEED = 120, 1
BEHIND = 6
CORES = Path("/sys/devices/system/cpu")
WARM_UP_S, MEASURED_S = 2.0, 6.0
CALLERS = 4
BODY = {
    "query": "how does a wing make lift at low speed",
    "documents": [f"the boundary layer of wing number {n} " * (2 + n % 9) for n in range(40)],
}


def replicas_needed(
    requests_per_s: float,
    tokens_per_request: float,
    tokens_per_s: float,
    utilisation: float = UTILISATION,
) -> int:
    """The number of replicas, of `tokens_per_s` each, that carry the load at no more than
    `utilisation`."""
    return math.ceil(requests_per_s * tokens_per_request / (tokens_per_s * utilisation))


def main() -> int:
    """0 when the computed number of replicas keeps up and one fewer does not."""
    parser = argparse.ArgumentParser(prog="python -m checks.replicas", description=main.__doc__)
    parser.add_argument("artifact", type=Path)
    chosen = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        not_here("found one core, wanted two: one for each replica")
    before = Others()
    with _pinned(chosen.artifact, cores[:1]) as urls:
        tokens_per_s, tokens = asyncio.run(_capacity(urls[0]))
    rate = LOAD * tokens_per_s / tokens
    needed = replicas_needed(rate, tokens, tokens_per_s)
    print(
        f"one replica: {tokens_per_s:.0f} tokens/s; {rate:.1f} requests/s of {tokens} tokens "
        f"need {needed}"
    )
    assert needed == len(cores), needed
    with _pinned(chosen.artifact, cores) as urls:
        together = asyncio.run(_together(urls))
    if together < APART * tokens_per_s:
        print(f"two replicas: {together / tokens_per_s:.2f} times that, wanted {APART}")
        return _failed(before.share(), _siblings(cores))
    kept_up = {}
    for count in (needed - 1, needed):
        with _pinned(chosen.artifact, cores[:count]) as urls:
            kept_up[count] = asyncio.run(_replayed(urls, rate))
    if kept_up == {needed - 1: False, needed: True}:
        return 0
    return _failed(before.share(), _siblings(cores))


def _failed(others: float, siblings: bool) -> int:
    """1 on a machine where two replicas can have a core each; elsewhere not possible here."""
    need_quiet(others)
    if siblings:
        not_here("found that the two cores are threads of one, wanted two real ones")
    print("FAULT     the replicas do not match the formula")
    return 1


def _siblings(cores: list[int]) -> bool:
    """Whether the two are threads of the same core, according to the kernel."""
    paths = (CORES / f"cpu{core}" / "topology" / "thread_siblings_list" for core in cores)
    # The list of a thread, such as 0,4 or 0-1, is the same for its siblings.
    first, second = (path.read_text() if path.exists() else str(path) for path in paths)
    return first == second


@contextmanager
def _pinned(artifact: Path, cores: list[int]) -> Iterator[list[str]]:
    """A replica on each of the cores."""
    before = os.sched_getaffinity(0)
    with ExitStack() as stack:
        urls = []
        for core in cores:
            os.sched_setaffinity(0, {core})  # children inherit it
            try:
                urls.append(stack.enter_context(served(rank=artifact)))
            finally:
                os.sched_setaffinity(0, before)
        yield urls


async def _capacity(url: str) -> tuple[float, int]:
    """Tokens per second of a busy replica, and the tokens of one request."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:

        async def ask(_: int) -> httpx.Response:
            return (await client.post("/rerank", json=BODY)).raise_for_status()

        tokens = int((await ask(0)).json()["usage"]["prompt_tokens"])
        await keep_busy(ask, CALLERS, WARM_UP_S)
        return tokens * await keep_busy(ask, CALLERS, MEASURED_S), tokens


async def _together(urls: list[str]) -> float:
    """Tokens per second of busy replicas at the same time."""
    return sum(tokens_per_s for tokens_per_s, _ in await asyncio.gather(*map(_capacity, urls)))


async def _replayed(urls: list[str], rate: float) -> bool:
    """Whether the replicas in turn keep up with requests that arrive at random times."""
    rng = random.Random(SEED)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=600))
            for url in urls
        ]
        pauses_s = [0.0, *(rng.expovariate(rate) for _ in range(REQUESTS - 1))]
        asked = await arrive(
            lambda number: clients[number % len(clients)].post("/rerank", json=BODY), pauses_s
        )
        waiting = sum(not one.done() for one in asked)
        refused = sum(one.status_code != httpx.codes.OK for one in await asyncio.gather(*asked))
    kept_up = not refused and waiting <= BEHIND
    print(
        f"{len(urls)} replica(s): {waiting} of {REQUESTS} requests unanswered when the last one "
        f"was due, {refused} refused: {'keeps up' if kept_up else 'falls behind'}"
    )
    return kept_up


if __name__ == "__main__":
    sys.exit(main())
