"""llama-index's clients of Text Embeddings Inference: reranker, and embedder without a prompt."""

import asyncio

from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

from clients.check import assert_ranked, assert_vectors, main, own_relevances, own_vectors
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG


def _assert_ranks(base_url: str, passages: list[str]) -> None:
    ranker = TextEmbeddingInference(base_url=base_url, top_n=len(passages))
    nodes = [
        NodeWithScore(node=TextNode(text=text, id_=str(place)))
        for place, text in enumerate(passages)
    ]
    ranked = ranker.postprocess_nodes(nodes, query_str=QUERY)
    assert_ranked(
        [int(node.node_id) for node in ranked],
        own_relevances(base_url, QUERY, passages),
        [node.score for node in ranked],
    )


def ranks(base_url: str) -> None:
    """TextEmbeddingInference (postprocessor), 5 nodes"""
    _assert_ranks(base_url, FIVE)


def ranks_many(base_url: str) -> None:
    """TextEmbeddingInference (postprocessor), 60 nodes in one request"""
    _assert_ranks(base_url, HUNDRED[:60])


def embeds(base_url: str) -> None:
    """TextEmbeddingsInference: a query, 100 texts, asynchronously too; EMBED_DEFAULT_INPUT_TYPE"""
    embedder = TextEmbeddingsInference("any", base_url=base_url, embed_batch_size=40)
    passages = own_vectors(base_url, HUNDRED, "passage")
    (query,) = own_vectors(base_url, [QUERY], "passage")
    assert_vectors([embedder.get_query_embedding(QUERY)], [query])
    assert_vectors([asyncio.run(embedder.aget_query_embedding(QUERY))], [query])
    assert_vectors(embedder.get_text_embedding_batch(HUNDRED), passages)
    found = asyncio.run(embedder.aget_text_embedding_batch(FIVE))
    assert_vectors(found, own_vectors(base_url, FIVE, "passage"))


def cuts(base_url: str) -> None:
    """TextEmbeddingsInference cuts a text that is too long, as it asks for by default"""
    embedder = TextEmbeddingsInference("any", base_url=base_url)
    found = [embedder.get_text_embedding(TOO_LONG)]
    assert_vectors(found, own_vectors(base_url, [TOO_LONG], "passage"))


if __name__ == "__main__":
    main(ranks, ranks_many, embeds, cuts)
