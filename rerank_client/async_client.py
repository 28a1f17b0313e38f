"""The client for asyncio."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import httpx

from rerank_client.answer import Answer, NoAnswer
from rerank_client.client import TIMEOUT_S
from rerank_client.flow import Flow, Send, rank, rank_or_keep_order
from rerank_client.question import question
from rerank_client.result import RerankResult
from rerank_client.surface import RERANK, Surface
from rerank_client.target import find_target
from rerank_client.transport import SEND_ERRORS, answer, no_answer


class AsyncRerankClient:
    """`RerankClient` for asyncio: the same arguments, answers and errors.

    Tasks may share a client. `await aclose()`, or use it with `async with`.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        surface: Surface = RERANK,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """As of RerankClient; with `sleep=trio.sleep` the client runs under trio."""
        self._target = find_target(base_url, api_key, surface)
        self._http = httpx.AsyncClient(timeout=timeout_s)
        self._sleep = sleep

    async def rerank(
        self, query: str, documents: Iterable[str], top_n: int | None = None
    ) -> RerankResult:
        """As RerankClient.rerank."""
        return await self._run(rank(self._target, question(query, documents, top_n)))

    async def rerank_or_keep_order(
        self, query: str, documents: Iterable[str], top_n: int | None = None
    ) -> RerankResult:
        """As RerankClient.rerank_or_keep_order."""
        flow = rank_or_keep_order(self._target, question(query, documents, top_n))
        return await self._run(flow)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncRerankClient":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def _run(self, flow: Flow) -> RerankResult:
        outcome: Answer | NoAnswer | None = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                result: RerankResult = end.value
                return result
            if isinstance(step, Send):
                outcome = await self._send(step)
            else:
                await self._sleep(step.seconds)
                outcome = None

    async def _send(self, step: Send) -> Answer | NoAnswer:
        try:
            response = await self._http.post(step.url, content=step.body, headers=step.headers)
        except SEND_ERRORS as error:
            return no_answer(error)
        return answer(response)
