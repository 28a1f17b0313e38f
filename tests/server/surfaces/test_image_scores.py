"""One score of texts, images and both behind every surface that takes images."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runtime.opening import open_ranker
from runtime.ranker import Ranker
from runtime.requests import Passage, RankRequest
from tests.server.in_process import InProcess
from tests.server.surfaces.images import FIVE, ONE, THREE, VISION_RANK, bare, data_url
from tests.server.surfaces.triton_client import GRPC, HTTP, Triton

QUERY = "what does it show?"
PASSAGES: dict[str, Sequence[Passage]] = {
    "text": [Passage("a text"), Passage("another one, longer")],
    "image": [Passage("", ONE), Passage("", THREE)],
    "both": [Passage("a caption", FIVE), Passage("another", ONE)],
    "all": [Passage("a caption", THREE), Passage("a text"), Passage("", FIVE), Passage("no", ONE)],
}
TOLERANCE = 2e-5

Write = Callable[[bytes], str]
Ask = Callable[[InProcess, Sequence[Passage]], list[float]]


@pytest.fixture(scope="module")
def ranker(vision_artifact: Path) -> Iterator[Ranker]:
    """The runtime itself."""
    with closing(open_ranker(vision_artifact)) as model:
        yield model


def post(server: InProcess, path: str, body: dict[str, Any]) -> Any:
    response = server.http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def by_index(items: list[dict[str, Any]], score: str) -> list[float]:
    assert sorted(item["index"] for item in items) == list(range(len(items)))
    return [item[score] for item in sorted(items, key=lambda item: item["index"])]


def nim(path: str, write: Write = data_url, *, texts: bool = False) -> Ask:
    """With `texts`, a passage has a text although it is empty."""

    def passage(one: Passage) -> dict[str, str]:
        text = {"text": one.text} if one.text or texts else {}
        return text | ({"image": write(one.image)} if isinstance(one.image, bytes) else {})

    def ask(server: InProcess, passages: Sequence[Passage]) -> list[float]:
        body = {"query": {"text": QUERY}, "passages": [passage(one) for one in passages]}
        return by_index(post(server, path, body)["rankings"], "logit")

    return ask


def jina(one: Passage) -> str | dict[str, str]:
    """Jina's image, here also beside a text."""
    if one.image is None:
        return one.text
    assert isinstance(one.image, bytes)
    return ({"text": one.text} if one.text else {}) | {"image": bare(one.image)}


def vllm(one: Passage) -> str | dict[str, Any]:
    """vLLM's parts."""
    parts: list[dict[str, Any]] = []
    if isinstance(one.image, bytes):
        parts.append({"type": "image_url", "image_url": {"url": data_url(one.image)}})
    if one.text:
        parts.append({"type": "text", "text": one.text})
    return {"content": parts}


def results(path: str, write: Callable[[Passage], Any], **more: Any) -> Ask:
    def ask(server: InProcess, passages: Sequence[Passage]) -> list[float]:
        body = {"query": QUERY, "documents": [write(one) for one in passages], **more}
        return by_index(post(server, path, body)["results"], "relevance_score")

    return ask


def simple_scores(server: InProcess, passages: Sequence[Passage]) -> list[float]:
    body = {"query": QUERY, "documents": [jina(one) for one in passages]}
    found: list[float] = post(server, "/rerank", body)["scores"]
    return found


def score(path: str, *, each: bool = False, **more: Any) -> Ask:
    """With `each`, every passage has a query."""

    def ask(server: InProcess, passages: Sequence[Passage]) -> list[float]:
        queries = [QUERY] * len(passages) if each else QUERY
        body = {"data_1": queries, "data_2": [vllm(one) for one in passages], **more}
        return by_index(post(server, path, body)["data"], "score")

    return ask


def kserve(transport: str, write: Write = data_url, *, binary: bool = True) -> Ask:
    """A passage without an image has an empty one."""

    def ask(server: InProcess, passages: Sequence[Passage]) -> list[float]:
        settings = server.settings
        one = Triton(settings.triton_port if transport == HTTP else settings.grpc_port, transport)
        options = {} if transport == GRPC else {"binary_data": binary}
        images = [write(p.image) if isinstance(p.image, bytes) else "" for p in passages]
        tensors = [
            one.texts("query", [QUERY], **options),
            one.texts("passage", [p.text for p in passages], **options),
            one.texts("passage_image", images, **options),
        ]
        found = one.client.infer(VISION_RANK, tensors).as_numpy("logit")
        one.client.close()
        return [float(logit) for logit in found.ravel()]

    return ask


LOGITS: dict[str, Ask] = {
    "kserve json": kserve(HTTP, binary=False),
    "kserve binary": kserve(HTTP, bare),
    "kserve grpc": kserve(GRPC),
    "nim": nim("/v1/ranking"),
    "nim, base64 alone and empty texts": nim("/v1/ranking", bare, texts=True),
    "nim hosted, older": nim("/v1/retrieval/nvidia/reranking"),
    "nim hosted": nim("/v1/retrieval/nvidia/llama-nemotron-rerank-vl-1b-v2/reranking"),
    "simple scores": simple_scores,
    "simple raw": results("/rerank", jina, raw_scores=True),
    "vllm rerank": results("/v1/rerank", vllm, use_activation=False),
    "vllm score": score("/score", use_activation=False),
    "vllm score, many to many": score("/v1/score", each=True, use_activation=False),
}
RELEVANCES: dict[str, Ask] = {
    "simple": results("/rerank", jina),
    "jina": results("/v1/rerank", jina),
    "vllm": results("/rerank", vllm),
    "vllm score": score("/score"),
}


def wanted(ranker: Ranker, passages: Sequence[Passage]) -> list[float]:
    """Each passage alone in the runtime, so that no batch and no order has a share in it."""
    found = [float(ranker.rank(RankRequest(QUERY, [one])).logits[0]) for one in passages]
    assert len(set(found)) == len(passages)
    return found


@pytest.mark.parametrize("kind", PASSAGES)
@pytest.mark.parametrize("dialect", LOGITS)
def test_logits(vision_server: InProcess, ranker: Ranker, dialect: str, kind: str) -> None:
    found = LOGITS[dialect](vision_server, PASSAGES[kind])
    assert found == pytest.approx(wanted(ranker, PASSAGES[kind]), abs=TOLERANCE)


@pytest.mark.parametrize("kind", PASSAGES)
@pytest.mark.parametrize("dialect", RELEVANCES)
def test_relevances(vision_server: InProcess, ranker: Ranker, dialect: str, kind: str) -> None:
    found = RELEVANCES[dialect](vision_server, PASSAGES[kind])
    logits = [math.log(p / (1 - p)) for p in found]
    assert logits == pytest.approx(wanted(ranker, PASSAGES[kind]), abs=TOLERANCE)
