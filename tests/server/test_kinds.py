"""Which models one process serves: a reranker, an embedder, or both."""

from pathlib import Path

import pytest

from tests.server.in_process import GaveUp, InProcess, Serve, in_process

RANKING = {"query": {"text": "q"}, "passages": [{"text": "p"}]}
EMBEDDING = {"input": "q", "input_type": "query"}


def kinds(server: InProcess) -> list[str]:
    return [model["kind"] for model in server.get("/v1/metadata").json()["modelInfo"]]


def test_both_in_one_process(serve: Serve, rank_artifact: Path, embed_artifact: Path) -> None:
    settings = {"RERANK_MODEL_DIR": str(rank_artifact), "EMBED_MODEL_DIR": str(embed_artifact)}
    server = serve(settings)
    assert kinds(server) == ["rank", "embed"]
    assert len(server.get("/v1/models").json()["data"]) == 2
    assert server.get("/v1/health/ready").json()["object"] == "health.response"
    assert server.rank(RANKING).status_code == 200
    embedded = server.http.post("/v1/embeddings", json=EMBEDDING).json()
    assert embedded["usage"]["total_tokens"] > 0
    counts = server.get("/v1/metrics").text.split("# TYPE nv_inference_count")[1].splitlines()[1:3]
    assert all(line.startswith("nv_inference_count{") for line in counts), counts


@pytest.mark.parametrize("variable", ["EMBED_MODEL_DIR", "NIM_CUSTOM_MODEL", "RERANK_MODEL_DIR"])
def test_an_embedder_alone(serve: Serve, embed_artifact: Path, variable: str) -> None:
    server = serve({variable: str(embed_artifact), "NIM_SERVED_MODEL_NAME": "mine"})
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
    request: pytest.FixtureRequest, option: str, fixture: str, wanted: str
) -> None:
    directory = str(request.getfixturevalue(fixture))
    with pytest.raises(GaveUp, match=wanted), in_process({}, {option: directory}):
        pass


def test_an_embedder_beside_the_image_s_own_reranker(embed_artifact: Path) -> None:
    settings = {"RERANK_MODEL_DIR": str(embed_artifact), "EMBED_MODEL_DIR": str(embed_artifact)}
    with pytest.raises(GaveUp, match="wanted a reranker"), in_process(settings):
        pass
