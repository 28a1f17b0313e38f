"""What every client's checks compare with: the server's own answers.

Standard library only, because it runs inside each client's environment.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from urllib.request import Request, urlopen

from clients.texts import QUERY

OLD_MODEL = "nvidia/llama-3.2-nv-rerankqa-1b-v2"
NEW_MODEL = "nvidia/llama-nemotron-rerank-1b-v2"
OLD_EMBEDDER = "nvidia/llama-3.2-nv-embedqa-1b-v2"
NEW_EMBEDDER = "nvidia/llama-nemotron-embed-1b-v2"
# As Triton names the served models, whatever name was asked for.
TRITON_RANKER = "nvidia_llama_nemotron_rerank_1b_v2"
TRITON_EMBEDDER = "nvidia_llama_nemotron_embed_1b_v2"

# Logits of one passage may differ by this much between batches; closer ones count as ties.
_TOLERANCE = 1e-3
_VECTOR_TOLERANCE = 1e-5
_TIMEOUT_S = 120


@dataclass(frozen=True)
class Server:
    """The server that a client is checked against: `url` for HTTP, `grpc` as host:port.

    Its own answers take one text per request, so they depend on no client's batches and order.
    """

    url: str
    grpc: str

    def get(self, path: str) -> Any:
        """The JSON that it answers."""
        return _json(f"{self.url}{path}")

    def logits(self, passages: Sequence[str], query: str = QUERY) -> list[float]:
        """In the order of the passages."""
        return [self._logit(query, passage) for passage in passages]

    def vectors(
        self, texts: Sequence[str], input_type: str, dimensions: int | None = None
    ) -> list[list[float]]:
        """In the order of the texts."""
        return [self._vector(text, input_type, dimensions) for text in texts]

    def assert_ranked(
        self,
        passages: Sequence[str],
        order: Sequence[int],
        scores: Sequence[float] | None = None,
        query: str = QUERY,
    ) -> None:
        """Every passage once, best first; `scores`, if the client returns them, are the logits in
        that order."""
        _assert_ranked(self.logits(passages, query), order, scores)

    def assert_relevant(
        self,
        passages: Sequence[str],
        order: Sequence[int],
        scores: Sequence[float],
        query: str = QUERY,
    ) -> None:
        """The same where the scores are the logits' sigmoids."""
        logits = self.logits(passages, query)
        _assert_ranked([1 / (1 + math.exp(-logit)) for logit in logits], order, scores)

    def assert_embedded(
        self,
        texts: Sequence[str],
        found: Sequence[Sequence[float]],
        input_type: str,
        dimensions: int | None = None,
    ) -> None:
        """Equal vectors in the order of the texts."""
        wanted = self.vectors(texts, input_type, dimensions)
        if [len(vector) for vector in found] != [len(vector) for vector in wanted]:
            raise AssertionError(
                f"found {len(found)} vectors of {len(found[0])}, wanted {len(wanted)} of "
                f"{len(wanted[0])}"
            )
        for place, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
            far = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
            if far > _VECTOR_TOLERANCE:
                raise AssertionError(f"vector {place} differs by {far}")

    def _logit(self, query: str, passage: str) -> float:
        body = {"query": {"text": query}, "passages": [{"text": passage}], "truncate": "END"}
        (ranking,) = _json(f"{self.url}/v1/ranking", body)["rankings"]
        return float(ranking["logit"])

    def _vector(self, text: str, input_type: str, dimensions: int | None) -> list[float]:
        asked = {"input": text, "input_type": input_type, "truncate": "END"}
        answer = _json(f"{self.url}/v1/embeddings", asked | {"dimensions": dimensions})
        (item,) = answer["data"]
        return [float(value) for value in item["embedding"]]


def assert_says(call: Callable[[], object], *words: str) -> None:
    """`call` must fail with an exception whose text, or whose cause's, contains all `words`."""
    text = _failure(call)
    if missing := [word for word in words if word not in text]:
        raise AssertionError(f"found no {missing} in {text[:400]!r}")


def assert_too_long(call: Callable[[], object], *, shows_status: bool = True) -> None:
    """`call` must fail, and its exception must give the reason, as langchain's own tests require.

    The status may be in the exception's text or in that of its cause.
    """
    text = _failure(call)
    if "exceeds maximum allowed" not in text:
        raise AssertionError(f"found no reason in {text[:300]!r}")
    if shows_status and "422" not in text and "400" not in text:
        raise AssertionError(f"found no status in {text[:300]!r}")


def _failure(call: Callable[[], object]) -> str:
    """What the exception of `call` says, and its cause."""
    try:
        call()
    except Exception as error:
        return f"{error!r} {error} {error.__cause__!r} {error.__cause__}"
    raise AssertionError("found no error")


def _assert_ranked(
    wanted: Sequence[float], order: Sequence[int], scores: Sequence[float] | None
) -> None:
    if sorted(order) != list(range(len(wanted))):
        raise AssertionError(f"found passages {sorted(order)}, wanted each of {len(wanted)} once")
    ranked = [wanted[index] for index in order]
    for place, (better, worse) in enumerate(pairwise(ranked)):
        if better < worse - _TOLERANCE:
            raise AssertionError(f"passage {order[place]} ({better}) is ranked before a {worse}")
    for found, score in zip(scores or (), ranked, strict=scores is not None):
        if abs(found - score) > _TOLERANCE:
            raise AssertionError(f"found score {found}, wanted {score}")


def _json(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    asked = Request(url, data=data, headers={"content-type": "application/json"})
    with urlopen(asked, timeout=_TIMEOUT_S) as reply:
        return json.load(reply)
