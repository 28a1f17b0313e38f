"""langchain-nvidia-ai-endpoints: NVIDIARerank in batches of 32, NVIDIAEmbeddings of 50."""

import asyncio
from collections.abc import Sequence

from langchain_core.documents import Document
from langchain_nvidia_ai_endpoints import NVIDIAEmbeddings, NVIDIARerank

from clients.check import NEW_MODEL, OLD_EMBEDDER, OLD_MODEL, Server, assert_says, assert_too_long
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG


def _documents(passages: list[str]) -> list[Document]:
    return [Document(text, metadata={"place": place}) for place, text in enumerate(passages)]


def _ranker(server: Server, **options: object) -> NVIDIARerank:
    return NVIDIARerank(base_url=f"{server.url}/v1", **options)


def _assert_ranked(server: Server, ranked: Sequence[Document], passages: list[str]) -> None:
    found = [document.metadata for document in ranked]
    order, scores = ([one[key] for one in found] for key in ("place", "relevance_score"))
    server.assert_ranked(passages, order, scores)


def with_model(server: Server) -> None:
    """NVIDIARerank, model named, 5 documents"""
    ranker = _ranker(server, model=OLD_MODEL)
    _assert_ranked(server, ranker.compress_documents(_documents(FIVE), QUERY), FIVE)


def without_model(server: Server) -> None:
    """NVIDIARerank, no model: the one that /v1/models lists, 100 documents"""
    ranker = _ranker(server, top_n=len(HUNDRED))
    served = server.get("/v1/models")["data"][0]["id"]
    assert ranker.model == served, f"found model {ranker.model}, wanted {served}"
    _assert_ranked(server, ranker.compress_documents(_documents(HUNDRED), QUERY), HUNDRED)


def asynchronous(server: Server) -> None:
    """NVIDIARerank.acompress_documents"""
    ranker = _ranker(server, model=NEW_MODEL)
    ranked = asyncio.run(ranker.acompress_documents(_documents(FIVE), QUERY))
    _assert_ranked(server, ranked, FIVE)


def too_long_is_cut(server: Server) -> None:
    """NVIDIARerank, truncate END"""
    passages = [*FIVE, TOO_LONG]
    ranker = _ranker(server, model=NEW_MODEL, truncate="END", top_n=len(passages))
    _assert_ranked(server, ranker.compress_documents(_documents(passages), QUERY), passages)


def too_long_is_refused(server: Server) -> None:
    """NVIDIARerank, truncate NONE and a text that is too long"""
    documents = _documents([*FIVE, TOO_LONG])
    ranker = _ranker(server, model=NEW_MODEL, truncate="NONE")
    assert_too_long(lambda: ranker.compress_documents(documents, QUERY))


def _embedder(server: Server, **options: object) -> NVIDIAEmbeddings:
    return NVIDIAEmbeddings(base_url=f"{server.url}/v1", model=OLD_EMBEDDER, **options)


def embeds(server: Server) -> None:
    """NVIDIAEmbeddings, a query, 100 documents in batches of 50, asynchronously too"""
    embedder = _embedder(server)
    server.assert_embedded([QUERY], [embedder.embed_query(QUERY)], "query")
    server.assert_embedded(HUNDRED, embedder.embed_documents(HUNDRED), "passage")
    server.assert_embedded(FIVE, asyncio.run(embedder.aembed_documents(FIVE)), "passage")


def dimensions(server: Server) -> None:
    """NVIDIAEmbeddings, dimensions 16, 32, 64; too many are all; -1 is a 400"""
    for size in (16, 32, 64):
        found = _embedder(server, dimensions=size).embed_documents(FIVE)
        server.assert_embedded(FIVE, found, "passage", size)
    found = _embedder(server, dimensions=102400).embed_documents(FIVE)
    server.assert_embedded(FIVE, found, "passage")
    assert_says(lambda: _embedder(server, dimensions=-1).embed_documents(FIVE), "400")


def embedding_too_long(server: Server) -> None:
    """NVIDIAEmbeddings, a text that is too long: refused (NONE), cut (END)"""
    assert_too_long(lambda: _embedder(server, truncate="NONE").embed_documents([TOO_LONG]))
    found = _embedder(server, truncate="END").embed_documents([TOO_LONG])
    server.assert_embedded([TOO_LONG], found, "passage")
