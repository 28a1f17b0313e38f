"""A finished artifact behind the server: the wire carries what the runtime computes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from runtime.manifest import read_manifest, write_manifest
from runtime.opening import open_ranker
from runtime.requests import RankRequest
from tests.server.conftest import Server
from tests.server.in_process import GaveUp, Serve

QUERY = "What is machine learning?"
PASSAGES = [
    "The weather is nice today",
    "Machine learning is a subset of AI",
    "Deep learning uses neural networks",
    "Thủ đô của Việt Nam là thành phố Hà Nội.",
]
BODY = {"query": {"text": QUERY}, "passages": [{"text": p} for p in PASSAGES]}


@pytest.fixture(scope="module")
def server(rank_artifact: Path) -> Iterator[Server]:
    """A process that serves the artifact."""
    with Server({"NIM_CUSTOM_MODEL": str(rank_artifact)}) as server:
        yield server.ready()


def test_the_answer_is_the_runtime_s(server: Server, rank_artifact: Path) -> None:
    ranker = open_ranker(rank_artifact)
    wanted = ranker.rank(RankRequest(QUERY, PASSAGES))
    ranker.close()
    found = server.rank(BODY).json()
    assert [r["index"] for r in found["rankings"]] == wanted.order.tolist()
    logits = [float(wanted.logits[i]) for i in wanted.order]
    assert [r["logit"] for r in found["rankings"]] == pytest.approx(logits, abs=1e-4)
    assert found["usage"]["total_tokens"] == wanted.token_counts.sum()
    many = [BODY["passages"][i % 4] for i in range(100)]  # type: ignore[index]
    refused = server.rank({**BODY, "passages": many})
    assert refused.status_code == 400


def test_what_it_says_of_itself(server: Server, rank_artifact: Path) -> None:
    manifest = read_manifest(rank_artifact)
    model = server.get("/v1/metadata").json()["modelInfo"][0]
    assert model["shortName"] == f"{manifest.model_id.rsplit('/', 1)[-1]}:{manifest.version}"
    assert (model["proven"], model["mock"]) == (True, False)
    assert (model["engine"], model["device"]) == ("onnxruntime-cpu", "cpu")
    text = server.get("/v1/manifest").json()["manifest_file"]
    for name, checksum in manifest.files.items():
        assert f'"{name}":\n        checksum: "{checksum}"' in text


@pytest.mark.parametrize("now", ["absent", "broken", "another"])
def test_what_it_says_is_of_what_is_served_and_not_of_the_disk(
    serve: Serve, rank_artifact: Path, tmp_path: Path, now: str
) -> None:
    directory = shutil.copytree(rank_artifact, tmp_path / "artifact")
    server = serve({"NIM_CUSTOM_MODEL": str(directory)})
    paths = ["/v1/manifest", "/v1/metadata", "/v1/models", "/v1/health/ready", "/health", "/info"]
    before = {path: server.get(path).json() for path in paths}
    manifest = read_manifest(directory)
    shutil.rmtree(directory)
    if now != "absent":
        directory.mkdir()
        (directory / "manifest.json").write_text("{")
    if now == "another":
        write_manifest(directory, msgspec.structs.replace(manifest, files={"x": "sha256:0"}))
    assert {path: server.get(path).json() for path in paths} == before
    assert manifest.files["model.onnx"] in before["/v1/manifest"]["manifest_file"]


def test_one_row_a_call_and_many_passages(serve: Serve, rank_artifact: Path) -> None:
    given = {"NIM_TRITON_MAX_BATCH_SIZE": "1", "RERANK_MAX_PASSAGES": "512"}
    server = serve({"RERANK_MODEL_DIR": str(rank_artifact), **given})
    passages = [{"text": f"{PASSAGES[i % 4]} {i}"} for i in range(100)]
    found = server.rank({**BODY, "passages": passages}).json()
    assert sorted(r["index"] for r in found["rankings"]) == list(range(100))


def test_a_changed_file_is_never_served(serve: Serve, rank_artifact: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(rank_artifact, changed)
    with (changed / "tokenizer" / "tokenizer.json").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(GaveUp, match=r"tokenizer/tokenizer\.json has changed"):
        serve({"NIM_CUSTOM_MODEL": str(changed)})
