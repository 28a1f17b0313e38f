"""langchain-nvidia-ai-endpoints: NVIDIARerank, in batches of 32."""

import asyncio
from collections.abc import Sequence

from langchain_core.documents import Document
from langchain_nvidia_ai_endpoints import NVIDIARerank

from clients.check import (
    NEW_MODEL,
    OLD_MODEL,
    assert_ranked,
    assert_too_long,
    get,
    main,
    own_logits,
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


if __name__ == "__main__":
    main(with_model, without_model, asynchronous, too_long_is_cut, too_long_is_refused)
