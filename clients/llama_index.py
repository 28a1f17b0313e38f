"""llama-index: NVIDIARerank in batches of 64, NVIDIAEmbedding."""

import asyncio

import httpx
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.nvidia import NVIDIAEmbedding
from llama_index.postprocessor.nvidia_rerank import NVIDIARerank

from clients.check import (
    OLD_EMBEDDER,
    OLD_MODEL,
    assert_ranked,
    assert_vectors,
    get,
    main,
    own_logits,
    own_vectors,
)
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG


def _assert_ranks(base_url: str, ranker: NVIDIARerank, passages: list[str]) -> None:
    nodes = [
        NodeWithScore(node=TextNode(text=text, id_=str(place)))
        for place, text in enumerate(passages)
    ]
    ranked = ranker.postprocess_nodes(nodes, query_str=QUERY)
    assert_ranked(
        [int(node.node_id) for node in ranked],
        own_logits(base_url, QUERY, passages),
        [node.score for node in ranked],
    )


def with_model(base_url: str) -> None:
    """NVIDIARerank, model named, 5 nodes"""
    ranker = NVIDIARerank(base_url=f"{base_url}/v1", model=OLD_MODEL)
    _assert_ranks(base_url, ranker, FIVE)


def without_model(base_url: str) -> None:
    """NVIDIARerank, no model: the one that /v1/models lists, 100 nodes"""
    ranker = NVIDIARerank(base_url=f"{base_url}/v1", top_n=len(HUNDRED))
    served = get(f"{base_url}/v1/models")["data"][0]["id"]
    assert ranker.model == served, f"found model {ranker.model}, wanted {served}"
    _assert_ranks(base_url, ranker, HUNDRED)


def too_long_is_cut(base_url: str) -> None:
    """NVIDIARerank, truncate END"""
    passages = [*FIVE, TOO_LONG]
    # Its own client gives up after httpx's 5 seconds, which a long text on a CPU may take.
    ranker = NVIDIARerank(
        base_url=f"{base_url}/v1",
        model=OLD_MODEL,
        truncate="END",
        top_n=len(passages),
        http_client=httpx.Client(timeout=60),
    )
    _assert_ranks(base_url, ranker, passages)


def embeds(base_url: str) -> None:
    """NVIDIAEmbedding: a query, 100 texts, asynchronously too (base64 on the wire)"""
    embedder = NVIDIAEmbedding(
        base_url=f"{base_url}/v1", model=OLD_EMBEDDER, truncate="END", embed_batch_size=40
    )
    query = own_vectors(base_url, [QUERY], "query")
    passages = own_vectors(base_url, HUNDRED, "passage")
    # Its synchronous query path sends input_type passage.
    as_passage = own_vectors(base_url, [QUERY], "passage")
    assert_vectors([embedder.get_query_embedding(QUERY)], as_passage)
    assert_vectors([asyncio.run(embedder.aget_query_embedding(QUERY))], query)
    assert_vectors(embedder.get_text_embedding_batch(HUNDRED), passages)


if __name__ == "__main__":
    main(with_model, without_model, too_long_is_cut, embeds)
