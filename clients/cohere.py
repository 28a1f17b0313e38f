"""Cohere's SDK: rerank of both generations."""

import cohere

from clients.check import Server, assert_says
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG


def _assert_ranks(server: Server, results: list, passages: list[str]) -> None:
    scores = [result.relevance_score for result in results]
    server.assert_relevant(passages, [result.index for result in results], scores)


def _clients(server: Server) -> tuple[cohere.Client, cohere.ClientV2]:
    return tuple(
        kind(api_key="unused", base_url=server.url) for kind in (cohere.Client, cohere.ClientV2)
    )


def first(server: Server) -> None:
    """Client.rerank, documents shown, texts and objects"""
    client, _ = _clients(server)
    documents = [*FIVE[:3], *({"text": text} for text in FIVE[3:])]
    reply = client.rerank(
        model="rerank-v3.5", query=QUERY, documents=documents, return_documents=True
    )
    _assert_ranks(server, reply.results, FIVE)
    assert all(result.document.text == FIVE[result.index] for result in reply.results)
    assert reply.meta.api_version.version == "1", reply.meta


def second(server: Server) -> None:
    """ClientV2.rerank, 50 documents"""
    _, client = _clients(server)
    reply = client.rerank(model="rerank-v3.5", query=QUERY, documents=HUNDRED[:50])
    _assert_ranks(server, reply.results, HUNDRED[:50])
    assert reply.id, reply


def top_n(server: Server) -> None:
    """rerank of both, top_n 2"""
    for client in _clients(server):
        reply = client.rerank(model="m", query=QUERY, documents=FIVE, top_n=2)
        assert len(reply.results) == 2, reply


def long_documents_are_cut(server: Server) -> None:
    """a document that is too long is cut, as Cohere does"""
    documents = [*FIVE, TOO_LONG]
    for client in _clients(server):
        results = client.rerank(model="m", query=QUERY, documents=documents).results
        _assert_ranks(server, results, documents)


def errors(server: Server) -> None:
    """a bad request is Cohere's BadRequestError with words"""
    for client in _clients(server):
        assert_says(
            lambda client=client: client.rerank(model="m", query=" ", documents=FIVE),
            "BadRequestError",
            "query",
        )
