"""Cohere's SDK: rerank of both generations."""

import cohere

from clients.check import assert_ranked, assert_says, main, own_relevances
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG


def _assert_ranks(base_url: str, results: list, passages: list[str]) -> None:
    assert_ranked(
        [result.index for result in results],
        own_relevances(base_url, QUERY, passages),
        [result.relevance_score for result in results],
    )


def _v1(base_url: str) -> cohere.Client:
    return cohere.Client(api_key="unused", base_url=base_url)


def _v2(base_url: str) -> cohere.ClientV2:
    return cohere.ClientV2(api_key="unused", base_url=base_url)


def first(base_url: str) -> None:
    """Client.rerank, documents shown, texts and objects"""
    documents = [*FIVE[:3], *({"text": text} for text in FIVE[3:])]
    reply = _v1(base_url).rerank(
        model="rerank-v3.5", query=QUERY, documents=documents, return_documents=True
    )
    _assert_ranks(base_url, reply.results, FIVE)
    assert all(result.document.text == FIVE[result.index] for result in reply.results)
    assert reply.meta.api_version.version == "1", reply.meta


def second(base_url: str) -> None:
    """ClientV2.rerank, 50 documents"""
    reply = _v2(base_url).rerank(model="rerank-v3.5", query=QUERY, documents=HUNDRED[:50])
    _assert_ranks(base_url, reply.results, HUNDRED[:50])
    assert reply.id, reply


def top_n(base_url: str) -> None:
    """rerank of both, top_n 2"""
    for client in (_v1(base_url), _v2(base_url)):
        reply = client.rerank(model="m", query=QUERY, documents=FIVE, top_n=2)
        assert len(reply.results) == 2, reply


def long_documents_are_cut(base_url: str) -> None:
    """a document that is too long is cut, as Cohere does"""
    documents = [*FIVE, TOO_LONG]
    for client in (_v1(base_url), _v2(base_url)):
        results = client.rerank(model="m", query=QUERY, documents=documents).results
        _assert_ranks(base_url, results, documents)


def errors(base_url: str) -> None:
    """a bad request is Cohere's BadRequestError with words"""
    for client in (_v1(base_url), _v2(base_url)):
        assert_says(
            lambda client=client: client.rerank(model="m", query=" ", documents=FIVE),
            "BadRequestError",
            "query",
        )


if __name__ == "__main__":
    main(first, second, top_n, long_documents_are_cut, errors)
