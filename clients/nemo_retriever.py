"""nemo-retriever, nv-ingest's successor: ranking, embedding and its probe at the start."""

from nemo_retriever.models.inference.main_text_embed import _http_embed_openai_compat
from nemo_retriever.models.nim.probe import drain_probe_results, probe_endpoint
from nemo_retriever.operators.rerank import rerank_hits

from clients.check import NEW_EMBEDDER, NEW_MODEL, Server
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG


def _rank(url: str, passages: list[str]) -> tuple[list[int], list[float]]:
    hits = [{"place": place, "text": text} for place, text in enumerate(passages)]
    ranked = rerank_hits(QUERY, hits, rerank_invoke_url=url, model_name=NEW_MODEL)
    return [hit["place"] for hit in ranked], [hit["_rerank_score"] for hit in ranked]


def probes(server: Server) -> None:
    """probe_endpoint finds nothing wrong"""
    probe_endpoint(f"{server.url}/v1/ranking", name="rerank", prefix="check", api_key="unused")
    wrong = [result for result in drain_probe_results() if result.status != "ok"]
    assert not wrong, wrong


def ranks(server: Server) -> None:
    """rerank_hits on the base URL and on /v1/ranking, a long text too"""
    passages = [*HUNDRED[:50], TOO_LONG]
    for url in (server.url, f"{server.url}/v1/ranking"):
        server.assert_ranked(passages, *_rank(url, passages))


def ranks_as_vllm(server: Server) -> None:
    """rerank_hits on /v1/rerank"""
    server.assert_relevant(FIVE, *_rank(f"{server.url}/v1/rerank", FIVE))


def embeds(server: Server) -> None:
    """its HTTP embedding call, 100 texts, modality text"""
    found = _http_embed_openai_compat(
        HUNDRED,
        api_key="unused",
        endpoint_url=f"{server.url}/v1",
        model_name=NEW_EMBEDDER,
        encoding_format="float",
        input_type="passage",
        truncate="END",
        modalities=["text"] * len(HUNDRED),
    )
    server.assert_embedded(HUNDRED, found, "passage")
