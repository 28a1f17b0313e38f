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
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from checks.here import not_here
from checks.others import MAX_OTHER_SHARE, Others
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
        tokens_per_s, tokens = _capacity(urls[0])
    rate = LOAD * tokens_per_s / tokens
    needed = replicas_needed(rate, tokens, tokens_per_s)
    print(
        f"one replica: {tokens_per_s:.0f} tokens/s; {rate:.1f} requests/s of {tokens} tokens "
        f"need {needed}"
    )
    assert needed == len(cores), needed
    with _pinned(chosen.artifact, cores) as urls, ThreadPoolExecutor(len(urls)) as pool:
        together = sum(tokens_per_s for tokens_per_s, _ in pool.map(_capacity, urls))
    if together < APART * tokens_per_s:
        print(f"two replicas: {together / tokens_per_s:.2f} times that, wanted {APART}")
        return _failed(before.share(), _siblings(cores))
    kept_up = {}
    for count in (needed - 1, needed):
        with _pinned(chosen.artifact, cores[:count]) as urls:
            kept_up[count] = _replayed(urls, rate)
    if kept_up == {needed - 1: False, needed: True}:
        return 0
    return _failed(before.share(), _siblings(cores))


def _failed(others: float, siblings: bool) -> int:
    """1 on a machine where two replicas can have a core each; elsewhere not possible here."""
    if others > MAX_OTHER_SHARE:
        not_here(f"other processes took {others:.0%} of the machine, wanted {MAX_OTHER_SHARE:.0%}")
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


def _capacity(url: str) -> tuple[float, int]:
    """Tokens per second of a busy replica, and the tokens of one request."""
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


def _replayed(urls: list[str], rate: float) -> bool:
    """Whether all requests, at `rate` per second, were answered, and all but a few of them when the
    last one was due. Requests that wait for a tokeniser or a connection count as unanswered."""
    rng = random.Random(SEED)
    with ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=url, timeout=600)) for url in urls]
        pool = stack.enter_context(ThreadPoolExecutor(REQUESTS))
        asked: list[Future[httpx.Response]] = []
        due = time.monotonic()
        for number in range(REQUESTS):
            time.sleep(max(0.0, due - time.monotonic()))
            client = clients[number % len(clients)]
            asked.append(pool.submit(client.post, "/rerank", json=BODY))
            due += rng.expovariate(rate)
        waiting = sum(not one.done() for one in asked)
        refused = sum(one.result().status_code != httpx.codes.OK for one in asked)
    kept_up = not refused and waiting <= BEHIND
    print(
        f"{len(urls)} replica(s): {waiting} of {REQUESTS} requests unanswered when the last one "
        f"was due, {refused} refused: {'keeps up' if kept_up else 'falls behind'}"
    )
    return kept_up


if __name__ == "__main__":
    sys.exit(main())
