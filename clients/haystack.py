"""nvidia-haystack: NvidiaRanker, all documents in one request, and both embedders."""

from haystack import Document
from haystack_integrations.components.embedders.nvidia import (
    NvidiaDocumentEmbedder,
    NvidiaTextEmbedder,
)
from haystack_integrations.components.rankers.nvidia import NvidiaRanker

from clients.check import NEW_EMBEDDER, NEW_MODEL, OLD_EMBEDDER, OLD_MODEL, Server, assert_too_long
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG


def _ranker(server: Server, model: str | None, truncate: str | None = None) -> NvidiaRanker:
    return NvidiaRanker(
        model, api_url=f"{server.url}/v1", api_key=None, truncate=truncate, top_k=len(HUNDRED)
    )


def _documents(passages: list[str]) -> list[Document]:
    return [Document(id=str(place), content=text) for place, text in enumerate(passages)]


def _assert_ranks(server: Server, ranker: NvidiaRanker, passages: list[str]) -> None:
    ranked = ranker.run(QUERY, _documents(passages))["documents"]
    order, scores = ([int(one.id) for one in ranked], [one.score for one in ranked])
    server.assert_ranked(passages, order, scores)


def with_model(server: Server) -> None:
    """NvidiaRanker, model named, 5 documents"""
    _assert_ranks(server, _ranker(server, OLD_MODEL), FIVE)


def without_model(server: Server) -> None:
    """NvidiaRanker, no model ("model": null), 100 documents in one request"""
    _assert_ranks(server, _ranker(server, None), HUNDRED)


def too_long_is_cut(server: Server) -> None:
    """NvidiaRanker, truncate END"""
    _assert_ranks(server, _ranker(server, NEW_MODEL, "END"), [*FIVE, TOO_LONG])


def too_long_is_refused(server: Server) -> None:
    """NvidiaRanker, truncate NONE and a text that is too long"""
    documents = _documents([*FIVE, TOO_LONG])
    ranker = _ranker(server, NEW_MODEL, "NONE")
    assert_too_long(lambda: ranker.run(QUERY, documents))


def embeds_a_query(server: Server) -> None:
    """NvidiaTextEmbedder"""
    embedder = NvidiaTextEmbedder(OLD_EMBEDDER, api_url=f"{server.url}/v1", api_key=None)
    embedder.warm_up()
    found = embedder.run(QUERY)
    server.assert_embedded([QUERY], [found["embedding"]], "query")
    assert found["meta"]["usage"]["total_tokens"] > 0, found["meta"]


def embeds_documents(server: Server) -> None:
    """NvidiaDocumentEmbedder, 100 documents in batches of 32"""
    embedder = NvidiaDocumentEmbedder(NEW_EMBEDDER, api_url=f"{server.url}/v1", api_key=None)
    embedder.warm_up()
    documents = embedder.run(_documents(HUNDRED))["documents"]
    server.assert_embedded(HUNDRED, [document.embedding for document in documents], "passage")
