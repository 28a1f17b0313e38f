"""llama-index's clients of Text Embeddings Inference: reranker, and embedder without a prompt."""

import asyncio

from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

from clients.check import Server
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG


def _assert_ranks(server: Server, passages: list[str]) -> None:
    ranker = TextEmbeddingInference(base_url=server.url, top_n=len(passages))
    nodes = [
        NodeWithScore(node=TextNode(text=text, id_=str(place)))
        for place, text in enumerate(passages)
    ]
    ranked = ranker.postprocess_nodes(nodes, query_str=QUERY)
    order = [int(node.node_id) for node in ranked]
    server.assert_relevant(passages, order, [node.score for node in ranked])


def ranks(server: Server) -> None:
    """TextEmbeddingInference (postprocessor), 5 nodes"""
    _assert_ranks(server, FIVE)


def ranks_many(server: Server) -> None:
    """TextEmbeddingInference (postprocessor), 60 nodes in one request"""
    _assert_ranks(server, HUNDRED[:60])


def embeds(server: Server) -> None:
    """TextEmbeddingsInference: a query, 100 texts, asynchronously too; EMBED_DEFAULT_INPUT_TYPE"""
    embedder = TextEmbeddingsInference("any", base_url=server.url, embed_batch_size=40)
    server.assert_embedded([QUERY], [embedder.get_query_embedding(QUERY)], "passage")
    found = asyncio.run(embedder.aget_query_embedding(QUERY))
    server.assert_embedded([QUERY], [found], "passage")
    server.assert_embedded(HUNDRED, embedder.get_text_embedding_batch(HUNDRED), "passage")
    found = asyncio.run(embedder.aget_text_embedding_batch(FIVE))
    server.assert_embedded(FIVE, found, "passage")


def cuts(server: Server) -> None:
    """TextEmbeddingsInference cuts a text that is too long, as it asks for by default"""
    embedder = TextEmbeddingsInference("any", base_url=server.url)
    found = [embedder.get_text_embedding(TOO_LONG)]
    server.assert_embedded([TOO_LONG], found, "passage")
