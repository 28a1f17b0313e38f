"""llama-index: NVIDIARerank in batches of 64, NVIDIAEmbedding."""

import asyncio

import httpx
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.nvidia import NVIDIAEmbedding
from llama_index.postprocessor.nvidia_rerank import NVIDIARerank

from clients.check import OLD_EMBEDDER, OLD_MODEL, Server
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG


def _assert_ranks(server: Server, ranker: NVIDIARerank, passages: list[str]) -> None:
    nodes = [
        NodeWithScore(node=TextNode(text=text, id_=str(place)))
        for place, text in enumerate(passages)
    ]
    ranked = ranker.postprocess_nodes(nodes, query_str=QUERY)
    order = [int(node.node_id) for node in ranked]
    server.assert_ranked(passages, order, [node.score for node in ranked])


def with_model(server: Server) -> None:
    """NVIDIARerank, model named, 5 nodes"""
    ranker = NVIDIARerank(base_url=f"{server.url}/v1", model=OLD_MODEL)
    _assert_ranks(server, ranker, FIVE)


def without_model(server: Server) -> None:
    """NVIDIARerank, no model: the one that /v1/models lists, 100 nodes"""
    ranker = NVIDIARerank(base_url=f"{server.url}/v1", top_n=len(HUNDRED))
    served = server.get("/v1/models")["data"][0]["id"]
    assert ranker.model == served, f"found model {ranker.model}, wanted {served}"
    _assert_ranks(server, ranker, HUNDRED)


def too_long_is_cut(server: Server) -> None:
    """NVIDIARerank, truncate END"""
    passages = [*FIVE, TOO_LONG]
    # Its own client gives up after httpx's 5 seconds, which a long text on a CPU may take.
    ranker = NVIDIARerank(
        base_url=f"{server.url}/v1",
        model=OLD_MODEL,
        truncate="END",
        top_n=len(passages),
        http_client=httpx.Client(timeout=60),
    )
    _assert_ranks(server, ranker, passages)


def embeds(server: Server) -> None:
    """NVIDIAEmbedding: a query, 100 texts, asynchronously too (base64 on the wire)"""
    embedder = NVIDIAEmbedding(
        base_url=f"{server.url}/v1", model=OLD_EMBEDDER, truncate="END", embed_batch_size=40
    )
    # Its synchronous query path sends input_type passage.
    server.assert_embedded([QUERY], [embedder.get_query_embedding(QUERY)], "passage")
    found = asyncio.run(embedder.aget_query_embedding(QUERY))
    server.assert_embedded([QUERY], [found], "query")
    server.assert_embedded(HUNDRED, embedder.get_text_embedding_batch(HUNDRED), "passage")
