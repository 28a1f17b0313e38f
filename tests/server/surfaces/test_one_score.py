"""One score behind every surface: the same pairs, asked in every dialect, against real weights."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checks.ports import free_ports
from runtime.manifest import read_manifest
from tests.conftest import Exported
from tests.server.in_process import InProcess, in_process
from tests.server.surfaces.test_kserve import GRPC, HTTP, Triton
from tests.zoo import targets
from tests.zoo.cases import CASES

QUERY = "How do vaccines protect against infection?"
PASSAGES = [
    "Memory cells formed after vaccination answer a later infection within hours.",
    "No.",
    "北京是中华人民共和国的首都，位于华北平原的北部。",
    # Rows of some of the zoo's families end at 256 tokens, and their tokenizers have few words.
    "The train to the coast leaves from platform four, " * 3,
    "cafe\u0301 🤔 tabs\tand\nnew lines",
]
TOLERANCE = 1e-6

Ask = Callable[[InProcess], list[float]]


def post(server: InProcess, path: str, body: dict[str, Any]) -> Any:
    response = server.http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def by_index(items: list[dict[str, Any]], score: str) -> list[float]:
    assert sorted(item["index"] for item in items) == list(range(len(PASSAGES)))
    return [item[score] for item in sorted(items, key=lambda item: item["index"])]


def nim(path: str) -> Ask:
    body = {"query": {"text": QUERY}, "passages": [{"text": text} for text in PASSAGES]}
    return lambda server: by_index(post(server, path, body)["rankings"], "logit")


def results(path: str, **more: Any) -> Ask:
    body = {"query": QUERY, "documents": PASSAGES, **more}
    return lambda server: by_index(post(server, path, body)["results"], "relevance_score")


def tei(**more: Any) -> Ask:
    body = {"query": QUERY, "texts": PASSAGES, **more}
    return lambda server: by_index(post(server, "/rerank", body), "score")


def score(path: str, queries: str | list[str], **more: Any) -> Ask:
    body = {"text_1": queries, "text_2": PASSAGES, **more}
    return lambda server: by_index(post(server, path, body)["data"], "score")


def simple_scores(server: InProcess) -> list[float]:
    found: list[float] = post(server, "/rerank", {"query": QUERY, "documents": PASSAGES})["scores"]
    return found


def kserve(transport: str, *, binary: bool = True) -> Ask:
    def ask(server: InProcess) -> list[float]:
        settings = server.settings
        port = settings.triton_port if transport == HTTP else settings.grpc_port
        one = Triton(port, transport)
        options = {} if transport == GRPC else {"binary_data": binary}
        tensors = [
            one.texts("query", [QUERY], **options),
            one.texts("passage", PASSAGES, **options),
        ]
        name = one.client.get_model_repository_index()
        model = name.models[0].name if transport == GRPC else name[0]["name"]
        outputs = [one.library.InferRequestedOutput("logit", **options)]
        found = one.client.infer(model, tensors, outputs=outputs).as_numpy("logit")
        one.client.close()
        return [float(logit) for logit in found.ravel()]

    return ask


LOGITS: dict[str, Ask] = {
    "kserve json": kserve(HTTP, binary=False),
    "kserve binary": kserve(HTTP),
    "kserve grpc": kserve(GRPC),
    "nim": nim("/v1/ranking"),
    "nim hosted, older": nim("/v1/retrieval/nvidia/reranking"),
    "nim hosted": nim("/v1/retrieval/nvidia/llama-3_2-nv-rerankqa-1b-v2/reranking"),
    "simple scores": simple_scores,
    "simple raw": results("/rerank", raw_scores=True),
    "vllm rerank": results("/v1/rerank", use_activation=False),
    "tei raw": tei(raw_scores=True),
    "score one to many": score("/score", QUERY, use_activation=False),
    "score many to many": score("/v1/score", [QUERY] * len(PASSAGES), use_activation=False),
}
RELEVANCES: dict[str, Ask] = {
    "simple": results("/rerank"),
    "cohere v1": results("/v1/rerank"),
    "cohere v2": results("/v2/rerank"),
    "tei": tei(),
    "score": score("/score", QUERY),
}


OTHERS = [row.case for row in targets.ROWS if "embedder" not in row.case]


@pytest.fixture(
    scope="module", params=["", *(pytest.param(name, marks=pytest.mark.heavy) for name in OTHERS)]
)
def server(
    request: pytest.FixtureRequest,
    rank_artifact: Path,
    exported: Exported,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[InProcess]:
    """The tiny Llama, whose scores depend on every token; or another family's tiny checkpoint."""
    artifact = rank_artifact
    if request.param:
        (case,) = (case for case in CASES if case.name == request.param)
        artifact = exported(case.build(tmp_path_factory.mktemp("checkpoints") / case.name))
    over_http, over_grpc = map(str, free_ports(2))  # Triton's clients want a connection
    ports = {"NIM_HTTP_TRITON_PORT": over_http, "NIM_TRITON_GRPC_PORT": over_grpc}
    with in_process({"RERANK_MODEL_DIR": str(artifact), **ports}) as one:
        yield one


@pytest.fixture(scope="module")
def wanted(server: InProcess) -> list[float]:
    """Each passage alone, so that no batch and no order has a share in it."""
    found = []
    for text in PASSAGES:
        body = {"query": {"text": QUERY}, "passages": [{"text": text}]}
        found.append(post(server, "/v1/ranking", body)["rankings"][0]["logit"])
    assert len(set(found)) == len(PASSAGES)
    return found


@pytest.mark.parametrize("dialect", LOGITS)
def test_logits(server: InProcess, wanted: list[float], dialect: str) -> None:
    assert LOGITS[dialect](server) == pytest.approx(wanted, abs=TOLERANCE)


@pytest.mark.parametrize("dialect", RELEVANCES)
def test_relevances(server: InProcess, wanted: list[float], dialect: str) -> None:
    """By the activation that the checkpoint was saved with; TEI's is always the sigmoid."""
    found = RELEVANCES[dialect](server)
    assert server.settings.custom_dir is not None
    if dialect == "tei" or read_manifest(server.settings.custom_dir).activation == "sigmoid":
        found = [math.log(p / (1 - p)) for p in found]
    assert found == pytest.approx(wanted, abs=TOLERANCE)


def test_every_rerank_route_is_asked_here(server: InProcess) -> None:
    """A new dialect must join: every documented POST route that takes a query is in the tables."""
    asked = {"/v1/ranking", "/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score"}
    asked |= {"/v1/retrieval/nvidia/reranking", "/v1/retrieval/{org}/{model}/reranking"}
    embeds = {"/v1/embeddings", "/embed", "/tokenize"}
    paths = server.get("/openapi.json").json()["paths"]
    posts = {path for path, methods in paths.items() if "post" in methods}
    assert {
        path for path in posts if not path.startswith(("/v2/models", "/v2/repo"))
    } == asked | embeds
    assert "/v2/models/{model}/infer" in posts
