"""`make soak`: mixed load for minutes or hours, with every answer checked.

Requests of mixed lengths in every dialect and over gRPC, one in a hundred invalid, some clients
that disconnect, a reload every minute. Every score must equal that of the pair computed alone,
every vector that of its text; valid requests get only 200, 503 and 504, invalid ones 4xx; every
reload must replace each model; after warm-up threads and descriptors stay constant, and in a run of
five minutes or more memory grows no faster than its noise.
"""

import argparse
import asyncio
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx
import numpy as np
import tritonclient.grpc.aio as tritonclient
from prometheus_client.parser import text_string_to_metric_families

from checks.load import DIALECTS, Corpus, by_index, make_corpus, vectors_alone
from checks.serving import Server
from runtime.postprocess import Floats

_CALLERS = 8
_MAX_PASSAGES, _MAX_INPUTS = 40, 8
_BAD_SHARE = 0.01
_VANISHING_SHARE = 0.02
_GRPC_SHARE = 0.1
_EMBED_SHARE = 0.1
_RELOAD_S = 60.0
_SAMPLE_S = 2.0
# The first part is warm-up: arenas and caches reach their size, and models are loaded twice.
_WARM_UP_SHARE = 0.4
# Float32 sums in batches of other shapes.
_DRIFT = 2e-3
# The same for the components of vectors of length 1.
_VECTOR_DRIFT = 1e-4
_RELOADS = "rerank_reloads"
# A reload takes as long as a start, under load.
_RELOAD_PATIENCE_S = 180.0
_RELOAD_PAUSE_S = 0.2
# Growth of memory per minute beyond its noise that counts as a leak.
_LEAK_BYTES_A_MINUTE = 1 << 20
# Each reload leaves another memory level: a line through one step says nothing.
_JUDGED_S = 3 * _RELOAD_S
_BAD_BODIES = (b"", b"{", b'{"query": 1}', b'{"query": {"text": ""}, "passages": []}', b"\xff")


@dataclass(frozen=True)
class Sample:
    """The server's process after this many seconds."""

    seconds: float
    resident: int
    threads: int
    files: int


@dataclass
class Seen:
    """Results, and what is wrong with them; `kinds` are the models that are served."""

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    scores: int = 0
    vectors: int = 0
    reloads: int = 0
    samples: list[Sample] = field(default_factory=list)
    kinds: tuple[str, ...] = ("rank", "embed")

    def check_scores(self, wanted: list[float], found: list[float], where: str) -> None:
        """Compare with the scores of the pairs alone."""
        self.scores += len(wanted)
        if len(found) != len(wanted):
            self.wrong.append(f"{where}: {len(found)} scores for {len(wanted)} passages")
            return
        worst = max(abs(a - b) for a, b in zip(found, wanted, strict=True))
        if not worst <= _DRIFT:
            self.wrong.append(f"{where}: a score is {worst:.5f} from that of the pair alone")

    def check_vectors(self, wanted: list[Floats], found: list[list[float]]) -> None:
        """Compare with the vectors of the texts alone."""
        self.vectors += len(wanted)
        shapes = [len(vector) for vector in found], [len(vector) for vector in wanted]
        if shapes[0] != shapes[1]:
            self.wrong.append(f"embeddings of {shapes[0]} components, wanted {shapes[1]}")
            return
        worst = max(float(np.abs(a - b).max()) for a, b in zip(found, wanted, strict=True))
        if not worst <= _VECTOR_DRIFT:
            self.wrong.append(f"a vector is {worst:.6f} from that of its text alone")


def main() -> int:
    """0 when no fault was found."""
    parser = argparse.ArgumentParser(prog="python -m checks.soak", description=__doc__)
    parser.add_argument("--rank", type=Path, default=Path("artifacts/rank"))
    parser.add_argument("--embed", type=Path, default=Path("artifacts/embed"))
    parser.add_argument("--minutes", type=float, default=10.0)
    chosen = parser.parse_args()
    corpus = make_corpus(chosen.rank)
    vectors = vectors_alone(chosen.embed, corpus.passages)
    given = {
        "RERANK_MODEL_DIR": str(chosen.rank.resolve()),
        "EMBED_MODEL_DIR": str(chosen.embed.resolve()),
        "NIM_LOG_LEVEL": "WARNING",
    }
    seen = Seen()

    def callers(
        client: httpx.AsyncClient, grpc: tritonclient.InferenceServerClient
    ) -> list[Caller]:
        return [
            Caller(client, grpc, corpus, vectors, random.Random(number), seen)
            for number in range(_CALLERS)
        ]

    return soak(given, callers, seen, chosen.minutes * 60)


class Calls(Protocol):
    """A client that sends one request after another."""

    async def call(self, end: float) -> None:
        """Until `end`, in the clock's seconds."""


Callers = Callable[[httpx.AsyncClient, tritonclient.InferenceServerClient], Iterable[Calls]]


def soak(
    given: Mapping[str, str],
    callers: Callers,
    seen: Seen,
    seconds: float,
    faults_in: Callable[[Server], list[str]] = lambda _: [],
) -> int:
    """Load a server with the environment `given`, print what was `seen`; 0 when no fault was.

    `faults_in` looks at the server after the load.
    """
    with Server(given) as server:
        asyncio.run(_load(server.ready(), callers, seen, seconds))
        faults = [*faults_of(seen), *faults_in(server)]
        if (ended := server.stop()) != 0:
            faults.append(f"exit status {ended}")
        if "Traceback" in server.log:
            faults.append(f"a stack trace in the log: {server.log[-1000:]}")
    _report(seen, faults)
    return 1 if faults else 0


async def _load(
    server: Server,
    callers: Callers,
    seen: Seen,
    seconds: float,
) -> None:
    end = time.monotonic() + seconds
    async with httpx.AsyncClient(base_url=server.url, timeout=150) as client:
        grpc = tritonclient.InferenceServerClient(server.grpc_address)
        await asyncio.gather(
            *(caller.call(end) for caller in callers(client, grpc)),
            _reload_every_minute(server, client, seen, end),
            _sample_every_moment(server, seen, end),
        )
        await grpc.close()


@dataclass(frozen=True)
class Caller:
    """Sends one request after another; each kind returns the word that is counted."""

    client: httpx.AsyncClient
    grpc: tritonclient.InferenceServerClient
    corpus: Corpus
    vectors: dict[str, Floats]
    rng: random.Random
    seen: Seen

    async def call(self, end: float) -> None:
        """Until `end`, in the clock's seconds."""
        kinds: dict[Callable[[str, list[str]], Awaitable[str]], float] = {
            self._bad: _BAD_SHARE,
            self._vanish: _VANISHING_SHARE,
            self._over_grpc: _GRPC_SHARE,
            self._embed: _EMBED_SHARE,
        }
        kinds[self._rank] = 1 - sum(kinds.values())
        while time.monotonic() < end:
            (kind,) = self.rng.choices(list(kinds), list(kinds.values()))
            try:
                outcome = await kind(*self.corpus.draw(self.rng, _MAX_PASSAGES))
            except httpx.TransportError as error:
                outcome = f"wrong: {type(error).__name__}"
            self.seen.statuses[outcome] += 1

    def _alone(self, query: str, texts: list[str]) -> list[float]:
        return [self.corpus.logits[query, text] for text in texts]

    async def _rank(self, query: str, texts: list[str]) -> str:
        path, body, scores = self.rng.choice(DIALECTS)
        reply = await self.client.post(path, json=body(query, texts))
        if reply.status_code == 200:
            self.seen.check_scores(self._alone(query, texts), scores(reply.json()), path)
        return f"good {reply.status_code}"

    async def _over_grpc(self, query: str, texts: list[str]) -> str:
        tensors = []
        for name, values in (("query", [query]), ("passage", texts)):
            tensor = tritonclient.InferInput(name, [len(values), 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[v.encode()] for v in values], dtype=np.object_))
            tensors.append(tensor)
        index = await self.grpc.get_model_repository_index()
        name = next(model.name for model in index.models if "rank" in model.name)
        try:
            found = await self.grpc.infer(name, tensors)
        except tritonclient.InferenceServerException as error:
            code = str(error.status()).removeprefix("StatusCode.")
            refused = {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
            return f"good {'503' if code in refused else code} (grpc)"
        logits = found.as_numpy("logit").ravel().tolist()
        self.seen.check_scores(self._alone(query, texts), logits, "gRPC")
        return "good 200 (grpc)"

    async def _embed(self, _: str, texts: list[str]) -> str:
        texts = texts[:_MAX_INPUTS]
        body = {"input": texts, "input_type": "passage"}
        reply = await self.client.post("/v1/embeddings", json=body)
        if reply.status_code == 200:
            found = by_index(reply.json()["data"], "embedding")
            self.seen.check_vectors([self.vectors[text] for text in texts], found)
        return f"good {reply.status_code}"

    async def _bad(self, _: str, __: list[str]) -> str:
        headers = {"content-type": "application/json"}
        body = self.rng.choice(_BAD_BODIES)
        reply = await self.client.post("/v1/ranking", content=body, headers=headers)
        return f"bad {reply.status_code}"

    async def _vanish(self, query: str, texts: list[str]) -> str:
        path, body, _ = DIALECTS[0]
        timeout_s = self.rng.uniform(0.001, 0.02)
        try:
            await self.client.post(path, json=body(query, texts), timeout=timeout_s)
        except httpx.TimeoutException:
            return "vanished"
        return "vanished too late"


async def _reload_every_minute(
    server: Server, client: httpx.AsyncClient, seen: Seen, end: float
) -> None:
    """Reload every minute, and wait until each model was replaced."""
    while (left := end - time.monotonic()) > 0:
        await asyncio.sleep(min(left, _RELOAD_S))
        server.signal(signal.SIGHUP)
        patience_ends = time.monotonic() + _RELOAD_PATIENCE_S
        wanted = dict.fromkeys(seen.kinds, seen.reloads + 1)
        while (done := await _reloads(client, seen.kinds)) != wanted:
            if time.monotonic() > patience_ends:
                seen.wrong.append(f"reload {seen.reloads + 1} is not done, but {done or 'none'}")
                return
            await asyncio.sleep(_RELOAD_PAUSE_S)
        seen.reloads += 1


async def _reloads(client: httpx.AsyncClient, kinds: tuple[str, ...]) -> dict[str, int]:
    """The number of reloads that replaced a model, by the model's kind."""
    text = (await client.get("/v1/metrics")).text
    return {
        sample.labels["kind"]: int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.name == _RELOADS
        and sample.labels.get("result") == "done"
        and sample.labels["kind"] in kinds
    }


async def _sample_every_moment(server: Server, seen: Seen, end: float) -> None:
    """Add the server's memory, threads and files until `end`."""
    began = time.monotonic()
    while time.monotonic() < end:
        await asyncio.sleep(_SAMPLE_S)
        used = server.resident_bytes(), server.threads(), server.descriptors()
        seen.samples.append(Sample(time.monotonic() - began, *used))


def faults_of(seen: Seen) -> list[str]:
    """What is wrong, in words."""
    allowed = {"good 200", "good 503", "good 504", "good 200 (grpc)", "good 503 (grpc)"}
    allowed |= {"vanished", "vanished too late"} | {f"bad {code}" for code in range(400, 500)}
    found = [
        f"{n} times {outcome!r}" for outcome, n in seen.statuses.items() if outcome not in allowed
    ]
    found += sorted(set(seen.wrong))[:10]
    vectors = seen.vectors or "embed" not in seen.kinds
    if not (seen.scores and vectors and seen.reloads):
        found.append("nothing was checked: no score, no vector or no reload")
    slope, noise = _growth(seen)
    if _judges_memory(seen) and slope - 2 * noise > _LEAK_BYTES_A_MINUTE:
        found.append(f"memory grows by {slope / 1e6:.2f} ± {noise / 1e6:.2f} MB a minute")
    settled = _settled(seen)
    half = len(settled) // 2
    for name, what in (("threads", "threads"), ("files", "descriptors")):
        early, late = (_middle(part, name) for part in (settled[:half], settled[half:]))
        if abs(late - early) > 2 + _CALLERS // 2:
            found.append(f"{what}: {early:.0f}, later {late:.0f}")
    return found


def _settled(seen: Seen) -> list[Sample]:
    return seen.samples[int(len(seen.samples) * _WARM_UP_SHARE) :]


def _middle(samples: list[Sample], name: str) -> float:
    return float(np.median([getattr(one, name) for one in samples])) if samples else 0.0


def _judges_memory(seen: Seen) -> bool:
    settled = _settled(seen)
    return settled[-1].seconds - settled[0].seconds >= _JUDGED_S - 2 * _SAMPLE_S


def _growth(seen: Seen) -> tuple[float, float]:
    """Bytes per minute after warm-up, by least squares, and the standard error."""
    settled = _settled(seen)
    minutes = [one.seconds / 60 for one in settled]
    (slope, _), covariance = np.polyfit(minutes, [one.resident for one in settled], 1, cov=True)
    return float(slope), float(np.sqrt(covariance[0, 0]))


def _report(seen: Seen, faults: list[str]) -> None:
    """Print the figures, the faults and the verdict."""
    slope, noise = _growth(seen)
    settled = _settled(seen)
    print(
        f"requests  {sum(seen.statuses.values())}, scores checked {seen.scores}, "
        f"vectors {seen.vectors}"
    )
    for outcome, count in sorted(seen.statuses.items()):
        print(f"  {outcome:20} {count}")
    print(f"reloads   {seen.reloads}")
    judged = "" if _judges_memory(seen) else ", not judged: too short"
    print(f"memory    {slope / 1e6:+.2f} ± {noise / 1e6:.2f} MB a minute after warm-up{judged}")
    for name in ("resident", "threads", "files"):
        values = [getattr(one, name) for one in settled]
        print(
            f"{name:9} {min(values)} to {max(values)}, in the middle {_middle(settled, name):.0f}"
        )
    for fault in faults:
        print(f"FAULT     {fault}")
    print(f"soak: {_verdict(seen, faults)}")


def _verdict(seen: Seen, faults: list[str]) -> str:
    if faults:
        return "failed"
    return "nothing wrong" + ("" if _judges_memory(seen) else "; memory not judged (too short)")


if __name__ == "__main__":
    sys.exit(main())
