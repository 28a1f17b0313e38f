"""`make check-replicas`: how many replicas a load needs, computed and then tried.

The formula (deploy/README.md): replicas = ⌈ requests/s × tokens of a request / (tokens/s of one
replica × utilisation) ⌉. Here the tokens/s of one replica are measured, a load is chosen for which
the formula says two, and it is replayed, at random times, before one replica and before two. Each
replica has a core of its own.
"""

import argparse
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from checks.serving import served

UTILISATION = 0.7
# More than one replica can do, and less than two: the formula has to say two.
LOAD = 1.2
WAIT_S = 1.0
# The most that other processes may do meanwhile, as the average load of the last minute.
QUIET = 0.5
WARM_UP_S, MEASURED_S = 2.0, 6.0
CALLERS = 4
SEED = 3
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
    """How many replicas, of `tokens_per_s` each, carry the load and are busy for no more than
    `utilisation` of the time."""
    return math.ceil(requests_per_s * tokens_per_request / (tokens_per_s * utilisation))


def main() -> int:
    """0 when the computed number of replicas keeps up and one fewer does not."""
    parser = argparse.ArgumentParser(prog="python -m checks.replicas", description=main.__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each replay")
    chosen = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("found one core, wanted two: one for each replica")
    if os.getloadavg()[0] > QUIET:
        raise SystemExit(
            f"found a load of {os.getloadavg()[0]:.1f} on this machine, wanted at most {QUIET}: "
            "two replicas are no faster than one where others take the second core"
        )
    with _pinned(chosen.artifact, cores[:1]) as urls:
        tokens_per_s, tokens = _capacity(urls[0])
    rate = LOAD * tokens_per_s / tokens
    needed = replicas_needed(rate, tokens, tokens_per_s)
    print(
        f"one replica: {tokens_per_s:.0f} tokens/s; {rate:.1f} requests/s of {tokens} tokens "
        f"need {needed}"
    )
    assert needed == len(cores), needed
    kept_up = {}
    for count in (needed - 1, needed):
        with _pinned(chosen.artifact, cores[:count]) as urls:
            kept_up[count] = _replayed(urls, rate, chosen.seconds)
    return 0 if kept_up == {needed - 1: False, needed: True} else 1


@contextmanager
def _pinned(artifact: Path, cores: list[int]) -> Iterator[list[str]]:
    """A replica on each of the cores."""
    before = os.sched_getaffinity(0)
    with ExitStack() as stack:
        urls = []
        for core in cores:
            os.sched_setaffinity(0, {core})  # a child has its parent's
            try:
                urls.append(stack.enter_context(served(rank=artifact)))
            finally:
                os.sched_setaffinity(0, before)
        yield urls


def _capacity(url: str) -> tuple[float, int]:
    """Tokens a second of a replica that always has work, and the tokens of one request."""
    with httpx.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(CALLERS) as pool:
        tokens = int(client.post("/rerank", json=BODY).json()["usage"]["prompt_tokens"])
        answered = 0
        began = measured = time.monotonic()
        end = began + WARM_UP_S + MEASURED_S
        running = {pool.submit(client.post, "/rerank", json=BODY) for _ in range(CALLERS)}
        while time.monotonic() < end:
            for one in [one for one in running if one.done()]:
                one.result().raise_for_status()
                running.remove(one)
                running.add(pool.submit(client.post, "/rerank", json=BODY))
                if time.monotonic() < began + WARM_UP_S:
                    answered, measured = 0, time.monotonic()
                else:
                    answered += 1
            time.sleep(0.001)
        return answered * tokens / (time.monotonic() - measured), tokens


def _replayed(urls: list[str], rate: float, seconds: float) -> bool:
    """Whether all requests, at `rate` a second, were answered and 95 % within WAIT_S of when they
    were due: what waits for a tokeniser or a connection waits as well."""
    chance = random.Random(SEED)
    times = []
    at = 0.0
    while at < seconds:
        times.append(at)
        at += chance.expovariate(rate)

    with ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=url, timeout=60)) for url in urls]
        pool = stack.enter_context(ThreadPoolExecutor(64))

        def ask(number: int, due: float) -> tuple[int, float]:
            reply = clients[number % len(clients)].post("/rerank", json=BODY)
            return reply.status_code, time.monotonic() - due

        began = time.monotonic()
        asked = []
        for number, due in enumerate(times):
            time.sleep(max(0.0, began + due - time.monotonic()))
            asked.append(pool.submit(ask, number, began + due))
        answers = [one.result() for one in asked]
        took = time.monotonic() - began
    p95 = statistics.quantiles([wait for _, wait in answers], n=20)[-1]
    failed = sum(status != httpx.codes.OK for status, _ in answers)
    kept_up = not failed and p95 < WAIT_S
    print(
        f"{len(urls)} replica(s): {len(answers)} requests in {took:.1f} s, {failed} refused, "
        f"p95 of the time to an answer {p95:.2f} s: {'keeps up' if kept_up else 'falls behind'}"
    )
    return kept_up


if __name__ == "__main__":
    sys.exit(main())
