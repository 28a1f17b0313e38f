"""Which names a client may use."""

from collections.abc import Iterator

import httpx
import pytest

from checks.ports import free_port
from server.names import AcceptedNames
from tests.server.in_process import InProcess, in_process
from tests.server.surfaces.kserve_requests import grpc_ready

MOCK = {"ENABLE_MOCK_INFERENCE": "1"}
# What NeMo Retriever asks for where nobody names another.
DEFAULT_OF_NEMO = "nvidia/llama-nemotron-rerank-vl-1b-v2"


@pytest.mark.parametrize("served", ["ranker-v2", "nvidia/ranker-v2"])
@pytest.mark.parametrize("asked", ["ranker-v2", "nvidia/ranker-v2"])
def test_a_served_name_has_the_hosted_organisation_or_none(served: str, asked: str) -> None:
    """The hosted service's paths, which litellm calls on any server, always name one."""
    assert asked in AcceptedNames(served, "rank")


def test_another_organisation_is_another_model() -> None:
    assert "nvidia/ranker" not in AcceptedNames("acme/ranker", "rank")
    assert "ranker" in AcceptedNames("acme/ranker", "rank")


def test_each_kind_has_nvidia_s_names_of_both_generations() -> None:
    names = AcceptedNames("acme/embedder", "embed")
    assert "nvidia/llama-3.2-nv-embedqa-1b-v2" in names
    assert "llama-3_2-nv-embedqa-1b-v2" in names
    assert "nvidia/llama-nemotron-embed-1b-v2" in names
    assert "nvidia/llama-nemotron-rerank-1b-v2" not in names


@pytest.fixture(scope="module")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def renamed(grpc_port: int) -> Iterator[InProcess]:
    """A server that NIM_SERVED_MODEL_NAME gives another model's name."""
    given = {"NIM_SERVED_MODEL_NAME": DEFAULT_OF_NEMO, "NIM_TRITON_GRPC_PORT": str(grpc_port)}
    with in_process({**MOCK, **given}) as server:
        yield server


NAMES = [DEFAULT_OF_NEMO, "llama-nemotron-rerank-vl-1b-v2", "nvidia/llama-nemotron-rerank-1b-v2"]


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_makes_the_server_answer_to_another_name(renamed: InProcess, name: str) -> None:
    """And to NVIDIA's names as before."""
    body = {"query": {"text": "q"}, "passages": [{"text": "p"}]}
    assert renamed.rank({**body, "model": name}).status_code == 200
    hosted = f"/v1/retrieval/nvidia/{name.rsplit('/', 1)[-1]}/reranking"
    assert renamed.http.post(hosted, json={**body, "model": name}).status_code == 200
    assert renamed.get("/v1/models").json()["data"][0]["id"] == DEFAULT_OF_NEMO


@pytest.mark.parametrize("name", NAMES)
def test_and_to_its_name_in_triton(renamed: InProcess, grpc_port: int, name: str) -> None:
    spelled = name.replace("/", "_").replace("-", "_").replace(".", "_")
    assert renamed.get(f"/v2/models/{spelled}/ready").status_code == 200
    assert grpc_ready(grpc_port, spelled)
    assert grpc_ready(grpc_port, name)


def test_without_the_setting_it_is_another_model(client: httpx.Client) -> None:
    body = {"query": {"text": "q"}, "passages": [{"text": "p"}], "model": DEFAULT_OF_NEMO}
    assert client.post("/v1/ranking", json=body).status_code == 404
