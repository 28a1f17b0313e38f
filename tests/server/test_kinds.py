"""Which models one process serves: a reranker, an embedder, or both."""

import shutil
from pathlib import Path
from typing import Any

import pytest

RANKING = {"query": {"text": "q"}, "passages": [{"text": "p"}]}
EMBEDDING = {"input": "q", "input_type": "query"}


def kinds(server: Any) -> list[str]:
    return [model["kind"] for model in server.get("/v1/metadata").json()["modelInfo"]]


def test_both_in_one_process(start: Any, rank_artifact: Path, embed_artifact: Path) -> None:
    settings = {"RERANK_MODEL_DIR": str(rank_artifact), "EMBED_MODEL_DIR": str(embed_artifact)}
    server = start(settings).ready()
    assert kinds(server) == ["rank", "embed"]
    assert len(server.get("/v1/models").json()["data"]) == 2
    assert server.get("/v1/health/ready").json()["object"] == "health.response"
    assert server.rank(RANKING).status_code == 200
    embedded = server.http.post("/v1/embeddings", json=EMBEDDING).json()
    assert embedded["usage"]["total_tokens"] > 0
    counts = server.get("/v1/metrics").text.split("# TYPE nv_inference_count")[1].splitlines()[1:3]
    assert all(line.startswith("nv_inference_count{") for line in counts), counts


@pytest.mark.parametrize("variable", ["EMBED_MODEL_DIR", "NIM_CUSTOM_MODEL", "RERANK_MODEL_DIR"])
def test_an_embedder_alone(start: Any, embed_artifact: Path, variable: str) -> None:
    server = start({variable: str(embed_artifact), "NIM_SERVED_MODEL_NAME": "mine"}).ready()
    assert kinds(server) == ["embed"]
    assert server.get("/v1/models").json()["data"][0]["id"] == "mine"
    for probe in ("live", "ready"):
        assert server.get(f"/v1/health/{probe}").json()["object"] == "health-response"
    assert server.http.post("/v1/embeddings", json={**EMBEDDING, "model": "mine"}).is_success
    refused = server.rank(RANKING)
    assert refused.status_code == 404
    assert "--rank DIR" in refused.json()["message"]


@pytest.mark.parametrize(
    ("option", "fixture", "wanted"),
    [("--rank", "embed_artifact", "--embed DIR"), ("--embed", "rank_artifact", "--rank DIR")],
)
def test_the_wrong_kind_is_refused(
    start: Any, request: pytest.FixtureRequest, option: str, fixture: str, wanted: str
) -> None:
    directory = str(request.getfixturevalue(fixture))
    command = (
        f"import sys; from server.cli import main; sys.exit(main([{option!r}, {directory!r}]))"
    )
    server = start({}, "-c", command)
    assert server.exit_code() == 1
    assert wanted in server.log


def test_an_embedder_beside_the_image_s_own_reranker(
    start: Any, rank_artifact: Path, embed_artifact: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(embed_artifact, wrong)
    settings = {"RERANK_MODEL_DIR": str(wrong), "EMBED_MODEL_DIR": str(embed_artifact)}
    server = start(settings)
    assert server.exit_code() == 1
    assert "wanted a reranker" in server.log
