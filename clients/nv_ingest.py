"""nv-ingest-client: reranking and embedding as its pipeline does it, and its probes."""

from nv_ingest_api.internal.primitives.nim.model_interface.helpers import (
    get_model_name,
    get_version,
    is_ready,
)
from nv_ingest_client.util.transport import infer_microservice
from nv_ingest_client.util.vdb.milvus import nv_rerank

from clients.check import NEW_MODEL, OLD_EMBEDDER, OLD_MODEL, Server, assert_too_long
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG


def _rerank(server: Server, passages: list[str], model: str, **options: str) -> list[int]:
    """The passages' indices in the order of the answer."""
    candidates = [{"id": i, "entity": {"text": text}} for i, text in enumerate(passages)]
    endpoint = f"{server.url}/v1/ranking"
    ranked = nv_rerank(QUERY, candidates, reranker_endpoint=endpoint, model_name=model, **options)
    return [candidate["id"] for candidate in ranked]


def five(server: Server) -> None:
    """nv_rerank, 5 candidates"""
    server.assert_ranked(FIVE, _rerank(server, FIVE, OLD_MODEL))


def hundred(server: Server) -> None:
    """nv_rerank, 100 candidates in one request"""
    server.assert_ranked(HUNDRED, _rerank(server, HUNDRED, NEW_MODEL))


def too_long_is_cut(server: Server) -> None:
    """nv_rerank cuts what is too long (truncate END)"""
    passages = [*FIVE, TOO_LONG]
    server.assert_ranked(passages, _rerank(server, passages, NEW_MODEL))


def too_long_is_refused(server: Server) -> None:
    """nv_rerank tells why (truncate NONE)"""
    passages = [*FIVE, TOO_LONG]
    assert_too_long(lambda: _rerank(server, passages, NEW_MODEL, truncate="NONE"))


def _vectors(server: Server, texts: list[str], **options: object) -> list[list[float]]:
    grpc = bool(options.get("grpc"))
    return infer_microservice(
        texts,
        model_name=OLD_EMBEDDER,
        embedding_endpoint=server.grpc if grpc else f"{server.url}/v1",
        nvidia_api_key="unused",
        **options,
    )


def embeds_over_http(server: Server) -> None:
    """infer_microservice, one text a request, 20 texts at once"""
    found = _vectors(server, HUNDRED[:20], input_type="passage")
    server.assert_embedded(HUNDRED[:20], found, "passage")


def embeds_queries(server: Server) -> None:
    """infer_microservice, input_type query"""
    server.assert_embedded([QUERY], _vectors(server, [QUERY], input_type="query"), "query")


def embeds_over_grpc(server: Server) -> None:
    """infer_microservice over gRPC: ModelConfig, then 100 texts"""
    found = _vectors(server, HUNDRED, grpc=True, input_type="passage")
    server.assert_embedded(HUNDRED, found, "passage")


def probes(server: Server) -> None:
    """is_ready, get_version, get_model_name"""
    endpoint = f"{server.url}/v1/ranking"
    assert is_ready(endpoint, "/v1/health/ready"), "found not ready"
    found = get_version(endpoint), get_model_name(endpoint, None)
    served = server.get("/v1/models")["data"][0]["id"]
    wanted = server.get("/v1/version")["release"], served.split("/")[-1]
    assert found == wanted, f"found {found}, wanted {wanted}"
