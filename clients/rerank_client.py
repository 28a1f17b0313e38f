"""Our own client library, installed as other people install it."""

import asyncio
import sys

import trio

from clients.check import Server, assert_says
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG
from rerank_client import AsyncRerankClient, RerankClient


def ranks(server: Server) -> None:
    """RerankClient.rerank, scores in the order of the documents"""
    with RerankClient(server.url) as client:
        found = client.rerank(QUERY, HUNDRED[:60])
    order = found.ranked_indices
    server.assert_ranked(HUNDRED[:60], order, [found.scores[i] for i in order])
    assert not found.degraded


def top_n(server: Server) -> None:
    """RerankClient.rerank, top_n 2, and more than there are"""
    with RerankClient(server.url) as client:
        assert len(client.rerank(QUERY, FIVE, top_n=2).ranked_indices) == 2
        assert len(client.rerank(QUERY, FIVE, top_n=20).ranked_indices) == len(FIVE)


def asynchronous(server: Server) -> None:
    """AsyncRerankClient, ten requests at once"""

    async def ask() -> list:
        async with AsyncRerankClient(server.url) as client:
            return await asyncio.gather(*(client.rerank(QUERY, FIVE) for _ in range(10)))

    for found in asyncio.run(ask()):
        server.assert_ranked(FIVE, found.ranked_indices)


def loop_after_loop(server: Server) -> None:
    """AsyncRerankClient, one for several event loops, trio's among them"""
    client = AsyncRerankClient(server.url, sleep=trio.sleep)

    async def ask() -> list[int]:
        return (await client.rerank(QUERY, FIVE)).ranked_indices

    for run in (trio.run, trio.run, lambda call: asyncio.run(call())):
        server.assert_ranked(FIVE, run(ask))
    trio.run(client.aclose)


def errors(server: Server) -> None:
    """what the server says is in the RerankError"""
    with RerankClient(server.url) as client:
        assert_says(
            lambda: client.rerank(QUERY, [TOO_LONG]),
            "RerankError",
            "exceeds maximum allowed token size",
        )


def keeps_the_order(server: Server) -> None:
    """rerank_or_keep_order goes on without the server, and without ours in its process"""
    with RerankClient(server.url) as client:
        assert client.rerank_or_keep_order(QUERY, [*FIVE, TOO_LONG]).degraded
    assert not {"runtime", "server", "numpy"} & set(sys.modules)
