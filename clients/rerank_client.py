"""Our own client library, installed as other people install it."""

import asyncio
import sys

import trio

from clients.check import assert_ranked, assert_says, main, own_logits
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG
from rerank_client import AsyncRerankClient, RerankClient


def ranks(base_url: str) -> None:
    """RerankClient.rerank, scores in the order of the documents"""
    with RerankClient(base_url) as client:
        found = client.rerank(QUERY, HUNDRED[:60])
    wanted = own_logits(base_url, QUERY, HUNDRED[:60])
    assert_ranked(found.ranked_indices, wanted, [found.scores[i] for i in found.ranked_indices])
    assert not found.degraded


def top_n(base_url: str) -> None:
    """RerankClient.rerank, top_n 2, and more than there are"""
    with RerankClient(base_url) as client:
        assert len(client.rerank(QUERY, FIVE, top_n=2).ranked_indices) == 2
        assert len(client.rerank(QUERY, FIVE, top_n=20).ranked_indices) == len(FIVE)


def asynchronous(base_url: str) -> None:
    """AsyncRerankClient, ten requests at once"""

    async def ask() -> list:
        async with AsyncRerankClient(base_url) as client:
            return await asyncio.gather(*(client.rerank(QUERY, FIVE) for _ in range(10)))

    wanted = own_logits(base_url, QUERY, FIVE)
    for found in asyncio.run(ask()):
        assert_ranked(found.ranked_indices, wanted)


def loop_after_loop(base_url: str) -> None:
    """AsyncRerankClient, one for several event loops, trio's among them"""
    client = AsyncRerankClient(base_url, sleep=trio.sleep)

    async def ask() -> list[int]:
        return (await client.rerank(QUERY, FIVE)).ranked_indices

    wanted = own_logits(base_url, QUERY, FIVE)
    for run in (trio.run, trio.run, lambda call: asyncio.run(call())):
        assert_ranked(run(ask), wanted)
    trio.run(client.aclose)


def errors(base_url: str) -> None:
    """what the server says is in the RerankError"""
    with RerankClient(base_url) as client:
        assert_says(
            lambda: client.rerank(QUERY, [TOO_LONG]),
            "RerankError",
            "exceeds maximum allowed token size",
        )


def keeps_the_order(base_url: str) -> None:
    """rerank_or_keep_order goes on without the server, and without ours in its process"""
    with RerankClient(base_url) as client:
        assert client.rerank_or_keep_order(QUERY, [*FIVE, TOO_LONG]).degraded
    assert not {"runtime", "server", "numpy"} & set(sys.modules)


if __name__ == "__main__":
    main(ranks, top_n, asynchronous, loop_after_loop, errors, keeps_the_order)
