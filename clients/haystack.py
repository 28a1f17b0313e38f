"""nvidia-haystack: NvidiaRanker, all documents in one request, and both embedders."""

from haystack import Document
from haystack_integrations.components.embedders.nvidia import (
    NvidiaDocumentEmbedder,
    NvidiaTextEmbedder,
)
from haystack_integrations.components.rankers.nvidia import NvidiaRanker

from clients.check import (
    NEW_EMBEDDER,
    NEW_MODEL,
    OLD_EMBEDDER,
    OLD_MODEL,
    assert_ranked,
    assert_too_long,
    assert_vectors,
    main,
    own_logits,
    own_vectors,
)
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG


def _ranker(base_url: str, model: str | None, truncate: str | None = None) -> NvidiaRanker:
    return NvidiaRanker(
        model, api_url=f"{base_url}/v1", api_key=None, truncate=truncate, top_k=len(HUNDRED)
    )


def _documents(passages: list[str]) -> list[Document]:
    return [Document(id=str(place), content=text) for place, text in enumerate(passages)]


def _assert_ranks(base_url: str, ranker: NvidiaRanker, passages: list[str]) -> None:
    ranked = ranker.run(QUERY, _documents(passages))["documents"]
    assert_ranked(
        [int(document.id) for document in ranked],
        own_logits(base_url, QUERY, passages),
        [document.score for document in ranked],
    )


def with_model(base_url: str) -> None:
    """NvidiaRanker, model named, 5 documents"""
    _assert_ranks(base_url, _ranker(base_url, OLD_MODEL), FIVE)


def without_model(base_url: str) -> None:
    """NvidiaRanker, no model ("model": null), 100 documents in one request"""
    _assert_ranks(base_url, _ranker(base_url, None), HUNDRED)


def too_long_is_cut(base_url: str) -> None:
    """NvidiaRanker, truncate END"""
    _assert_ranks(base_url, _ranker(base_url, NEW_MODEL, "END"), [*FIVE, TOO_LONG])


def too_long_is_refused(base_url: str) -> None:
    """NvidiaRanker, truncate NONE and a text that is too long"""
    documents = _documents([*FIVE, TOO_LONG])
    ranker = _ranker(base_url, NEW_MODEL, "NONE")
    assert_too_long(lambda: ranker.run(QUERY, documents))


def embeds_a_query(base_url: str) -> None:
    """NvidiaTextEmbedder"""
    embedder = NvidiaTextEmbedder(OLD_EMBEDDER, api_url=f"{base_url}/v1", api_key=None)
    embedder.warm_up()
    found = embedder.run(QUERY)
    assert_vectors([found["embedding"]], own_vectors(base_url, [QUERY], "query"))
    assert found["meta"]["usage"]["total_tokens"] > 0, found["meta"]


def embeds_documents(base_url: str) -> None:
    """NvidiaDocumentEmbedder, 100 documents in batches of 32"""
    embedder = NvidiaDocumentEmbedder(NEW_EMBEDDER, api_url=f"{base_url}/v1", api_key=None)
    embedder.warm_up()
    documents = embedder.run(_documents(HUNDRED))["documents"]
    found = [document.embedding for document in documents]
    assert_vectors(found, own_vectors(base_url, HUNDRED, "passage"))


if __name__ == "__main__":
    main(
        with_model,
        without_model,
        too_long_is_cut,
        too_long_is_refused,
        embeds_a_query,
        embeds_documents,
    )
