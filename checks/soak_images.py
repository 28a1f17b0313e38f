"""The second half of `make soak`: a reranker that takes images, with a cache that turns over.

Requests of texts, images and both, over HTTP and gRPC, from more images than the cache has room
for; some images are broken, some clients disconnect, a reload every minute. What is judged is as in
`checks.soak`, and that the cache was hit, overflowed and kept its limit.
"""

import argparse
import itertools
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc.aio as tritonclient

from checks.faults.pictures import REFUSED, base64_of, of_every_character, picture, wrongly_encoded
from checks.load import by_index
from checks.serving import Server
from checks.soak import Seen, soak
from runtime.opening import open_ranker
from runtime.requests import Passage, RankRequest

_CALLERS = 6
_MAX_PASSAGES = 12
_BAD_SHARE, _VANISHING_SHARE, _GRPC_SHARE = 0.03, 0.03, 0.15
_QUERIES = ("which page has the invoice", "what was shipped in may")
_TEXTS = ("", "", "a caption", "The table of all crates, by weight.")
# (width, height), of one to five tiles for the tiny model.
_SIZES = ((60, 40), (90, 90), (200, 90), (90, 300), (210, 200))
_IMAGES = 240
# A quarter of what all of them take for the tiny model.
_CACHE_BYTES = 384 << 10
_MODEL = "nvidia_llama_nemotron_rerank_vl_1b_v2"


@dataclass(frozen=True)
class _Page:
    """A passage as it is sent, and its logit for each query, computed alone."""

    text: str
    image: str | None
    logits: dict[str, float]

    @property
    def body(self) -> dict[str, str]:
        """As in the NIM's request."""
        shown = {} if self.image is None else {"image": self.image}
        return shown | ({"text": self.text} if self.text or not shown else {})


def make_pages(artifact: Path) -> list[_Page]:
    """Deterministic images, captions beside some of them, and a few texts alone."""
    files: list[bytes | None] = [None] * 10
    sizes = itertools.cycle(_SIZES)
    files += [picture(seed, *next(sizes)) for seed in range(_IMAGES)]
    ranker = open_ranker(artifact)
    try:
        pages = []
        for number, file in enumerate(files):
            text = _TEXTS[number % len(_TEXTS)] if file else f"The text number {number}."
            passage = Passage(text, file)
            logits = {
                query: float(ranker.rank(RankRequest(query, [passage])).logits[0])
                for query in _QUERIES
            }
            pages.append(_Page(text, base64_of(file) if file else None, logits))
    finally:
        ranker.close()
    return pages


@dataclass(frozen=True)
class _Caller:
    """Sends one request after another; each kind returns the word that is counted."""

    client: httpx.AsyncClient
    grpc: tritonclient.InferenceServerClient
    pages: list[_Page]
    broken: list[str]
    rng: random.Random
    seen: Seen

    async def call(self, end: float) -> None:
        """Until `end`, in the clock's seconds."""
        kinds: dict[Callable[[str, list[_Page]], Awaitable[str]], float] = {
            self._bad: _BAD_SHARE,
            self._vanish: _VANISHING_SHARE,
            self._over_grpc: _GRPC_SHARE,
        }
        kinds[self._rank] = 1 - sum(kinds.values())
        while time.monotonic() < end:
            (kind,) = self.rng.choices(list(kinds), list(kinds.values()))
            query = self.rng.choice(_QUERIES)
            count = min(_MAX_PASSAGES, int(self.rng.paretovariate(0.7)))
            try:
                outcome = await kind(query, self.rng.sample(self.pages, count))
            except httpx.TransportError as error:
                outcome = f"wrong: {type(error).__name__}"
            self.seen.statuses[outcome] += 1

    async def _rank(self, query: str, pages: list[_Page]) -> str:
        path, body, read = self.rng.choice(_DIALECTS)
        reply = await self.client.post(path, json=body(query, [page.body for page in pages]))
        if reply.status_code == 200:
            wanted = [page.logits[query] for page in pages]
            self.seen.check_scores(wanted, read(reply.json()), path)
        return f"good {reply.status_code}"

    async def _over_grpc(self, query: str, pages: list[_Page]) -> str:
        columns = {
            "query": [query],
            "passage": [page.text for page in pages],
            "passage_image": [page.image or "" for page in pages],
        }
        tensors = []
        for name, values in columns.items():
            tensor = tritonclient.InferInput(name, [len(values), 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[v.encode()] for v in values], dtype=np.object_))
            tensors.append(tensor)
        try:
            found = await self.grpc.infer(_MODEL, tensors)
        except tritonclient.InferenceServerException as error:
            code = str(error.status()).removeprefix("StatusCode.")
            refused = {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
            return f"good {'503' if code in refused else code} (grpc)"
        wanted = [page.logits[query] for page in pages]
        self.seen.check_scores(wanted, found.as_numpy("logit").ravel().tolist(), "gRPC")
        return "good 200 (grpc)"

    async def _bad(self, query: str, pages: list[_Page]) -> str:
        """One of its images is broken."""
        bodies = [page.body for page in pages]
        bodies.insert(self.rng.randint(0, len(pages)), {"image": self.rng.choice(self.broken)})
        path, body, _ = _DIALECTS[0]
        return f"bad {(await self.client.post(path, json=body(query, bodies))).status_code}"

    async def _vanish(self, query: str, pages: list[_Page]) -> str:
        path, body, _ = _DIALECTS[0]
        sent, timeout_s = [page.body for page in pages], self.rng.uniform(0.001, 0.02)
        try:
            await self.client.post(path, json=body(query, sent), timeout=timeout_s)
        except httpx.TimeoutException:
            return "vanished"
        return "vanished too late"


_Body = Callable[[str, list[dict[str, str]]], dict[str, Any]]
_DIALECTS: tuple[tuple[str, _Body, Callable[[Any], list[float]]], ...] = (
    (
        "/v1/ranking",
        lambda query, passages: {"query": {"text": query}, "passages": passages},
        lambda found: by_index(found["rankings"], "logit"),
    ),
    (
        "/v1/rerank",
        lambda query, passages: {
            "model": "any",
            "query": query,
            "documents": passages,
            "use_activation": False,
        },
        lambda found: by_index(found["results"], "relevance_score"),
    ),
)


def _cache_faults(server: Server, images: int) -> list[str]:
    """What is wrong with the cache; the figures are printed."""
    hits = server.counted("rerank_image_cache_hits_total")
    misses = server.counted("rerank_image_cache_misses_total")
    tiles = server.counted("rerank_image_tiles_total")
    kept = server.counted("rerank_image_cache_bytes")
    print(f"cache     {hits:.0f} hits, {misses:.0f} misses, {kept:.0f} bytes; {tiles:.0f} tiles")
    found = [] if hits else ["no image was found in the cache"]
    if misses <= images:
        found.append(f"{misses:.0f} images were computed, and there are {images}: no turnover")
    if not 0 < kept <= _CACHE_BYTES:
        found.append(f"the cache has {kept:.0f} bytes, wanted at most {_CACHE_BYTES}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """0 when no fault was found."""
    parser = argparse.ArgumentParser(prog="python -m checks.soak_images", description=__doc__)
    parser.add_argument("--vision", type=Path, default=Path("artifacts/vl"))
    parser.add_argument("--minutes", type=float, default=10.0)
    chosen = parser.parse_args(arguments)
    pages = make_pages(chosen.vision)
    given = {
        "RERANK_MODEL_DIR": str(chosen.vision.resolve()),
        "RERANK_IMAGE_CACHE_BYTES": str(_CACHE_BYTES),
        "NIM_LOG_LEVEL": "WARNING",
    }
    seen = Seen(kinds=("rank",))
    broken = [base64_of(make()) for name, make in REFUSED.items() if "whole" not in name]
    broken += wrongly_encoded(of_every_character()).values()

    def callers(
        client: httpx.AsyncClient, grpc: tritonclient.InferenceServerClient
    ) -> list[_Caller]:
        return [
            _Caller(client, grpc, pages, broken, random.Random(number), seen)
            for number in range(_CALLERS)
        ]

    seconds = chosen.minutes * 60
    return soak(given, callers, seen, seconds, lambda server: _cache_faults(server, _IMAGES))


if __name__ == "__main__":
    sys.exit(main())
