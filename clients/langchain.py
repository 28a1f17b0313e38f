"""langchain-nvidia-ai-endpoints: NVIDIARerank in batches of 32, NVIDIAEmbeddings of 50."""

import asyncio
from collections.abc import Sequence

from langchain_core.documents import Document
from langchain_nvidia_ai_endpoints import NVIDIAEmbeddings, NVIDIARerank

from clients.check import (
    NEW_MODEL,
    OLD_EMBEDDER,
    OLD_MODEL,
    assert_ranked,
    assert_says,
    assert_too_long,
    assert_vectors,
    get,
    main,
    own_logits,
    own_vectors,
)
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG


def _documents(passages: list[str]) -> list[Document]:
    return [Document(text, metadata={"place": place}) for place, text in enumerate(passages)]


def _assert_ranked(base_url: str, ranked: Sequence[Document], passages: list[str]) -> None:
    assert_ranked(
        [document.metadata["place"] for document in ranked],
        own_logits(base_url, QUERY, passages),
        [document.metadata["relevance_score"] for document in ranked],
    )


def with_model(base_url: str) -> None:
    """NVIDIARerank, model named, 5 documents"""
    ranker = NVIDIARerank(base_url=f"{base_url}/v1", model=OLD_MODEL)
    _assert_ranked(base_url, ranker.compress_documents(_documents(FIVE), QUERY), FIVE)


def without_model(base_url: str) -> None:
    """NVIDIARerank, no model: the one that /v1/models lists, 100 documents"""
    ranker = NVIDIARerank(base_url=f"{base_url}/v1", top_n=len(HUNDRED))
    served = get(f"{base_url}/v1/models")["data"][0]["id"]
    assert ranker.model == served, f"found model {ranker.model}, wanted {served}"
    _assert_ranked(base_url, ranker.compress_documents(_documents(HUNDRED), QUERY), HUNDRED)


def asynchronous(base_url: str) -> None:
    """NVIDIARerank.acompress_documents"""
    ranker = NVIDIARerank(base_url=f"{base_url}/v1", model=NEW_MODEL)
    ranked = asyncio.run(ranker.acompress_documents(_documents(FIVE), QUERY))
    _assert_ranked(base_url, ranked, FIVE)


def too_long_is_cut(base_url: str) -> None:
    """NVIDIARerank, truncate END"""
    passages = [*FIVE, TOO_LONG]
    ranker = NVIDIARerank(
        base_url=f"{base_url}/v1", model=NEW_MODEL, truncate="END", top_n=len(passages)
    )
    _assert_ranked(base_url, ranker.compress_documents(_documents(passages), QUERY), passages)


def too_long_is_refused(base_url: str) -> None:
    """NVIDIARerank, truncate NONE and a text that is too long"""
    documents = _documents([*FIVE, TOO_LONG])
    ranker = NVIDIARerank(base_url=f"{base_url}/v1", model=NEW_MODEL, truncate="NONE")
    assert_too_long(lambda: ranker.compress_documents(documents, QUERY))


def _embedder(base_url: str, **options: object) -> NVIDIAEmbeddings:
    return NVIDIAEmbeddings(base_url=f"{base_url}/v1", model=OLD_EMBEDDER, **options)


def embeds(base_url: str) -> None:
    """NVIDIAEmbeddings, a query, 100 documents in batches of 50, asynchronously too"""
    embedder = _embedder(base_url)
    passages = own_vectors(base_url, HUNDRED, "passage")
    assert_vectors([embedder.embed_query(QUERY)], own_vectors(base_url, [QUERY], "query"))
    assert_vectors(embedder.embed_documents(HUNDRED), passages)
    assert_vectors(
        asyncio.run(embedder.aembed_documents(FIVE)), own_vectors(base_url, FIVE, "passage")
    )


def dimensions(base_url: str) -> None:
    """NVIDIAEmbeddings, dimensions 16, 32, 64; too many are all; -1 is a 400"""
    for size in (16, 32, 64):
        found = _embedder(base_url, dimensions=size).embed_documents(FIVE)
        assert_vectors(found, own_vectors(base_url, FIVE, "passage", size))
    found = _embedder(base_url, dimensions=102400).embed_documents(FIVE)
    assert_vectors(found, own_vectors(base_url, FIVE, "passage"))
    assert_says(lambda: _embedder(base_url, dimensions=-1).embed_documents(FIVE), "400")


def embedding_too_long(base_url: str) -> None:
    """NVIDIAEmbeddings, a text that is too long: refused (NONE), cut (END)"""
    assert_too_long(lambda: _embedder(base_url, truncate="NONE").embed_documents([TOO_LONG]))
    found = _embedder(base_url, truncate="END").embed_documents([TOO_LONG])
    assert_vectors(found, own_vectors(base_url, [TOO_LONG], "passage"))


if __name__ == "__main__":
    main(
        with_model,
        without_model,
        asynchronous,
        too_long_is_cut,
        too_long_is_refused,
        embeds,
        dimensions,
        embedding_too_long,
    )
