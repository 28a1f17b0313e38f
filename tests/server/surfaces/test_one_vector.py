"""One vector behind every surface that embeds: the same texts in every dialect, of every family."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checks.ports import free_ports
from tests.conftest import Exported
from tests.server.in_process import InProcess, in_process
from tests.server.surfaces.test_one_score import PASSAGES, TOLERANCE, post
from tests.server.surfaces.triton_client import GRPC, HTTP, Triton
from tests.zoo import targets
from tests.zoo.cases import CASES

Vectors = np.ndarray
Ask = Callable[[InProcess, str], Vectors]
OTHERS = [row.case for row in targets.ROWS if "embedder" in row.case]


def openai(**more: Any) -> Ask:
    def ask(server: InProcess, kind: str) -> Vectors:
        body = {"input": PASSAGES, "input_type": kind, **more}
        data = post(server, "/v1/embeddings", body)["data"]
        assert [item["index"] for item in data] == list(range(len(PASSAGES)))
        found = [item["embedding"] for item in data]
        if "encoding_format" in more:
            return np.stack([np.frombuffer(base64.b64decode(one), "<f4") for one in found])
        return np.asarray(found)

    return ask


def tei(server: InProcess, kind: str) -> Vectors:
    return np.asarray(post(server, "/embed", {"inputs": PASSAGES, "prompt_name": kind}))


def kserve(transport: str) -> Ask:
    def ask(server: InProcess, kind: str) -> Vectors:
        settings = server.settings
        one = Triton(settings.triton_port if transport == HTTP else settings.grpc_port, transport)
        index = one.client.get_model_repository_index()
        name = index.models[0].name if transport == GRPC else index[0]["name"]
        tensors = [one.texts("text", PASSAGES)]
        found = one.client.infer(name, tensors, parameters={"input_type": kind})
        one.client.close()
        vectors: Vectors = found.as_numpy("embeddings")
        return vectors

    return ask


DIALECTS: dict[str, Ask] = {
    "kserve grpc": kserve(GRPC),
    "kserve http": kserve(HTTP),
    "openai": openai(),
    "openai base64": openai(encoding_format="base64"),
    "tei": tei,
}


@pytest.fixture(
    scope="module", params=["", *(pytest.param(name, marks=pytest.mark.heavy) for name in OTHERS)]
)
def server(
    request: pytest.FixtureRequest,
    embed_artifact: Path,
    exported: Exported,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[InProcess]:
    """The tiny Llama; or another family's tiny checkpoint."""
    artifact = embed_artifact
    if request.param:
        (case,) = (case for case in CASES if case.name == request.param)
        artifact = exported(case.build(tmp_path_factory.mktemp("checkpoints") / case.name))
    over_http, over_grpc = map(str, free_ports(2))  # Triton's clients want a connection
    ports = {"NIM_HTTP_TRITON_PORT": over_http, "NIM_TRITON_GRPC_PORT": over_grpc}
    with in_process({"EMBED_MODEL_DIR": str(artifact), **ports}) as one:
        yield one


@pytest.mark.parametrize("kind", ["query", "passage"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_vectors(server: InProcess, dialect: str, kind: str) -> None:
    """As each text alone is embedded, so that no batch has a share in it."""
    alone = [
        post(server, "/v1/embeddings", {"input": text, "input_type": kind})["data"][0]["embedding"]
        for text in PASSAGES
    ]
    assert len(np.unique(np.round(alone, 4), axis=0)) == len(PASSAGES)
    # The vectors of some families are not normalised.
    most = TOLERANCE * max(1.0, float(np.abs(alone).max()))
    np.testing.assert_allclose(DIALECTS[dialect](server, kind), alone, rtol=0, atol=most)


def test_every_route_that_embeds_is_asked_here(server: InProcess) -> None:
    paths = server.get("/openapi.json").json()["paths"]
    embed = {path for path, methods in paths.items() if "embed" in path and "post" in methods}
    assert embed == {"/v1/embeddings", "/embed"}
