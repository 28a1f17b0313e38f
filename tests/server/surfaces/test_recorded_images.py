"""Requests with images as unchanged clients sent them, replayed; `recorded/` names the clients.

`clients/` runs some of these clients themselves; NVIDIA's RAG blueprint needs a whole installation.
"""

import base64
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.opening import open_embedder, open_ranker
from runtime.requests import EmbedRequest, Passage, RankRequest
from tests.server.in_process import InProcess

FOLDER = Path(__file__).parent / "recorded"
RECORDED = {path.stem: json.loads(path.read_text("utf-8")) for path in FOLDER.glob("*.json")}
RANKINGS = sorted(name for name, one in RECORDED.items() if one["path"] == "/v1/ranking")
EMBEDDINGS = sorted(name for name, one in RECORDED.items() if one["path"] == "/v1/embeddings")
TOLERANCE = 2e-5


def replay(server: InProcess, name: str) -> Any:
    one = RECORDED[name]
    found = server.http.post(one["path"], json=one["body"], headers=one["headers"])
    assert found.status_code == 200, found.text
    return found.json()


def passage(text: str, image: str | None) -> Passage:
    return Passage(text, base64.b64decode(image.rpartition(",")[2]) if image else None)


def embedded(text: str) -> Passage:
    """NeMo Retriever's one string of text, line and data URL."""
    before, found, image = text.partition("data:image/png;base64,")
    return passage(before.removesuffix("\n"), image if found else None)


@pytest.mark.parametrize("name", RANKINGS)
def test_a_ranking(vision_server: InProcess, vision_artifact: Path, name: str) -> None:
    """The RAG blueprint takes the first rankings as they come; NeMo Retriever needs all indices."""
    body = RECORDED[name]["body"]
    passages = [passage(one["text"], one.get("image")) for one in body["passages"]]
    assert any(one.image for one in passages)
    with closing(open_ranker(vision_artifact)) as model:
        query = body["query"]["text"]
        wanted = [float(model.rank(RankRequest(query, [one])).logits[0]) for one in passages]
    rankings = replay(vision_server, name)["rankings"]
    order = [one["index"] for one in rankings]
    assert order == sorted(range(len(wanted)), key=wanted.__getitem__, reverse=True)
    found = [one["logit"] for one in rankings]
    assert found == pytest.approx([wanted[index] for index in order], abs=TOLERANCE)


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings(vision_server: InProcess, vision_embed_artifact: Path, name: str) -> None:
    passages = [embedded(text) for text in RECORDED[name]["body"]["input"]]
    assert any(one.image for one in passages)
    with closing(open_embedder(vision_embed_artifact)) as model:
        wanted = np.concatenate(
            [model.embed(EmbedRequest([one], "passage")).vectors for one in passages]
        )
    items = replay(vision_server, name)["data"]
    assert [one["index"] for one in items] == list(range(len(passages)))
    found = np.array([one["embedding"] for one in items])
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE, rtol=0)


def test_what_the_clients_differ_in_is_recorded() -> None:
    """Base64 alone or in a data URL, an empty text beside an image, with `truncate` or without."""
    retriever, blueprint = (RECORDED[name]["body"] for name in RANKINGS)
    assert retriever["truncate"] == "END"
    assert "truncate" not in blueprint
    assert not any(":" in one.get("image", "") for one in retriever["passages"])
    assert "" in [one["text"] for one in retriever["passages"]]
    assert blueprint["passages"][0]["image"].startswith("data:image/png;base64,")
    modalities = {json.dumps(RECORDED[name]["body"]["modality"]) for name in EMBEDDINGS}
    assert modalities == {'"image"', '["text_image", "image", "text"]'}
