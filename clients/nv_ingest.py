"""nv-ingest-client: reranking and embedding as its pipeline does it, and its probes."""

from nv_ingest_api.internal.primitives.nim.model_interface.helpers import (
    get_model_name,
    get_version,
    is_ready,
)
from nv_ingest_client.util.transport import infer_microservice
from nv_ingest_client.util.vdb.milvus import nv_rerank

from clients.check import (
    NEW_MODEL,
    OLD_EMBEDDER,
    OLD_MODEL,
    assert_ranked,
    assert_too_long,
    assert_vectors,
    get,
    grpc_address,
    main,
    own_logits,
    own_vectors,
)
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG


def _rerank(base_url: str, passages: list[str], model: str, **options: str) -> list[int]:
    """The passages' indices in the order of the answer."""
    candidates = [{"id": i, "entity": {"text": text}} for i, text in enumerate(passages)]
    endpoint = f"{base_url}/v1/ranking"
    ranked = nv_rerank(QUERY, candidates, reranker_endpoint=endpoint, model_name=model, **options)
    return [candidate["id"] for candidate in ranked]


def five(base_url: str) -> None:
    """nv_rerank, 5 candidates"""
    assert_ranked(_rerank(base_url, FIVE, OLD_MODEL), own_logits(base_url, QUERY, FIVE))


def hundred(base_url: str) -> None:
    """nv_rerank, 100 candidates in one request"""
    assert_ranked(_rerank(base_url, HUNDRED, NEW_MODEL), own_logits(base_url, QUERY, HUNDRED))


def too_long_is_cut(base_url: str) -> None:
    """nv_rerank cuts what is too long (truncate END)"""
    passages = [*FIVE, TOO_LONG]
    assert_ranked(_rerank(base_url, passages, NEW_MODEL), own_logits(base_url, QUERY, passages))


def too_long_is_refused(base_url: str) -> None:
    """nv_rerank tells why (truncate NONE)"""
    passages = [*FIVE, TOO_LONG]
    assert_too_long(lambda: _rerank(base_url, passages, NEW_MODEL, truncate="NONE"))


def _vectors(base_url: str, texts: list[str], **options: object) -> list[list[float]]:
    grpc = bool(options.get("grpc"))
    return infer_microservice(
        texts,
        model_name=OLD_EMBEDDER,
        embedding_endpoint=grpc_address() if grpc else f"{base_url}/v1",
        nvidia_api_key="unused",
        **options,
    )


def embeds_over_http(base_url: str) -> None:
    """infer_microservice, one text a request, 20 texts at once"""
    found = _vectors(base_url, HUNDRED[:20], input_type="passage")
    assert_vectors(found, own_vectors(base_url, HUNDRED[:20], "passage"))


def embeds_queries(base_url: str) -> None:
    """infer_microservice, input_type query"""
    assert_vectors(
        _vectors(base_url, [QUERY], input_type="query"), own_vectors(base_url, [QUERY], "query")
    )


def embeds_over_grpc(base_url: str) -> None:
    """infer_microservice over gRPC: ModelConfig, then 100 texts"""
    found = _vectors(base_url, HUNDRED, grpc=True, input_type="passage")
    assert_vectors(found, own_vectors(base_url, HUNDRED, "passage"))


def probes(base_url: str) -> None:
    """is_ready, get_version, get_model_name"""
    assert is_ready(f"{base_url}/v1/ranking", "/v1/health/ready"), "found not ready"
    found = get_version(f"{base_url}/v1/ranking"), get_model_name(f"{base_url}/v1/ranking", None)
    served = get(f"{base_url}/v1/models")["data"][0]["id"]
    wanted = get(f"{base_url}/v1/version")["release"], served.split("/")[-1]
    assert found == wanted, f"found {found}, wanted {wanted}"


if __name__ == "__main__":
    main(
        probes,
        five,
        hundred,
        too_long_is_cut,
        too_long_is_refused,
        embeds_over_http,
        embeds_queries,
        embeds_over_grpc,
    )
