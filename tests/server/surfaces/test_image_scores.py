"""One score of texts, images and both behind every surface that takes images."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runtime.opening import open_ranker
from runtime.ranker import Ranker
from runtime.requests import Passage, RankRequest
from tests.server.in_process import InProcess
from tests.server.surfaces.images import FIVE, ONE, THREE, bare, data_url

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


LOGITS: dict[str, Ask] = {
    "nim": nim("/v1/ranking"),
    "nim, base64 alone and empty texts": nim("/v1/ranking", bare, texts=True),
    "nim hosted, older": nim("/v1/retrieval/nvidia/reranking"),
    "nim hosted": nim("/v1/retrieval/nvidia/llama-nemotron-rerank-vl-1b-v2/reranking"),
}


@pytest.mark.parametrize("kind", PASSAGES)
@pytest.mark.parametrize("dialect", LOGITS)
def test_logits(vision_server: InProcess, ranker: Ranker, dialect: str, kind: str) -> None:
    """Each passage alone in the runtime, so that no batch and no order has a share in it."""
    passages = PASSAGES[kind]
    wanted = [float(ranker.rank(RankRequest(QUERY, [one])).logits[0]) for one in passages]
    assert len(set(wanted)) == len(passages)
    found = LOGITS[dialect](vision_server, passages)
    assert found == pytest.approx(wanted, abs=TOLERANCE)
