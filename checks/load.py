"""Load for a server: texts, requests in every dialect, the expected scores, two ways to send."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from runtime.opening import open_embedder, open_ranker
from runtime.postprocess import Floats
from runtime.requests import EmbedRequest, RankRequest

_TEXT = """retrieval ranking passage query model score token engine batch machine learning weather
nice today subset deep networks neural paris capital france train late river bank money garden book
reading light water mountain small large number question answer"""
_QUERIES = 4
_PASSAGES = 60
_LENGTHS = (3, 8, 20, 40, 80, 160, 320)
_SEED = 7
_T = TypeVar("_T")

# Path, body, and how the raw scores are read from the answer in the order of the passages.
Dialect = tuple[str, Callable[[str, list[str]], dict[str, Any]], Callable[[Any], list[float]]]


def by_index(entries: list[dict[str, Any]], key: str) -> list[Any]:
    """The value of `key` in each entry of an answer, in the order of the texts."""
    return [entry[key] for entry in sorted(entries, key=lambda entry: entry["index"])]


DIALECTS: tuple[Dialect, ...] = (
    (
        "/v1/ranking",
        lambda query, texts: {
            "query": {"text": query},
            "passages": [{"text": text} for text in texts],
        },
        lambda found: by_index(found["rankings"], "logit"),
    ),
    (
        "/rerank",
        lambda query, texts: {"query": query, "texts": texts, "raw_scores": True},
        lambda found: by_index(found, "score"),
    ),
    (
        "/v1/rerank",
        lambda query, texts: {
            "model": "any",
            "query": query,
            "documents": texts,
            "use_activation": False,
        },
        lambda found: by_index(found["results"], "relevance_score"),
    ),
    (
        "/score",
        lambda query, texts: {
            "model": "any",
            "text_1": query,
            "text_2": texts,
            "use_activation": False,
        },
        lambda found: [entry["score"] for entry in found["data"]],
    ),
)


@dataclass(frozen=True)
class Corpus:
    """Queries, passages of mixed lengths, and the logit of each pair computed alone."""

    queries: list[str]
    passages: list[str]
    logits: dict[tuple[str, str], float]

    def draw(self, rng: random.Random, most: int) -> tuple[str, list[str]]:
        """A query with up to `most` passages, short lists more often than long ones."""
        count = min(most, max(1, int(rng.paretovariate(0.7))))
        return rng.choice(self.queries), rng.sample(self.passages, min(count, _PASSAGES))


def vectors_alone(artifact: Path, texts: list[str]) -> dict[str, Floats]:
    """The vector, float32 [d], of each text as a passage, embedded one by one in this process."""
    embedder = open_embedder(artifact)
    try:
        return {text: embedder.embed(EmbedRequest([text], "passage")).vectors[0] for text in texts}
    finally:
        embedder.close()


def make_corpus(artifact: Path) -> Corpus:
    """Deterministic texts, scored one by one in this process."""
    rng = random.Random(_SEED)
    words = _TEXT.split()
    queries = [" ".join(rng.choices(words, k=6)) for _ in range(_QUERIES)]
    passages = [" ".join(rng.choices(words, k=rng.choice(_LENGTHS))) for _ in range(_PASSAGES)]
    ranker = open_ranker(artifact)
    try:
        logits = {
            (query, passage): float(ranker.rank(RankRequest(query, [passage])).logits[0])
            for query in queries
            for passage in passages
        }
    finally:
        ranker.close()
    return Corpus(queries, passages, logits)


async def keep_busy(ask: Callable[[int], Awaitable[Any]], callers: int, seconds: float) -> float:
    """Answers per second for so many callers that each wait for their answer; `ask` gets the number
    of the request."""
    began = time.monotonic()

    async def call(number: int) -> int:
        done = 0
        while time.monotonic() < began + seconds:
            await ask(number + done * callers)
            done += 1
        return done

    answered = sum(await asyncio.gather(*map(call, range(callers))))
    return answered / (time.monotonic() - began)


async def arrive(
    ask: Callable[[int], Awaitable[_T]], pauses_s: Iterable[float]
) -> list[asyncio.Task[_T]]:
    """Ask after each pause, however many are unanswered; returns when the last one was asked."""
    asked, due = [], time.monotonic()
    for number, pause_s in enumerate(pauses_s):
        due += pause_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        asked.append(asyncio.ensure_future(ask(number)))
    return asked
