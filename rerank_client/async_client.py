"""The client for asyncio."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from io import BytesIO

from anyio import to_thread

from rerank_client.answer import Answer, NoAnswer
from rerank_client.budget import Budget, use_budget
from rerank_client.flow import TIMEOUT_S, Flow, Send, limit_of, rank, rank_or_keep_order, step_of
from rerank_client.loops import LoopConnections
from rerank_client.network import Network
from rerank_client.question import Document, Question, question
from rerank_client.result import RerankResult
from rerank_client.surface import RERANK, Surface
from rerank_client.target import find_target
from rerank_client.transport import answer, expect_body, no_answer, request


class AsyncRerankClient:
    """`RerankClient` for asyncio: the same arguments, answers and errors.

    Tasks, event loops and threads may share a client: each event loop has its own connections,
    which are closed with it. Call `await aclose()` in any loop, or use `async with`.
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
        """See RerankClient; with `sleep=trio.sleep` the client runs under trio."""
        self._timeout_s = limit_of(timeout_s)
        self._target = find_target(base_url, api_key, surface)
        self._connections = LoopConnections(Network(self._target.url, tls_in_tls=True))
        self._sleep = sleep

    async def rerank(
        self, query: str, documents: Iterable[Document], top_n: int | None = None
    ) -> RerankResult:
        """As RerankClient.rerank."""
        asked = question(query, documents, top_n)
        return await self._run(asked, rank(self._target, asked, self._timeout_s))

    async def rerank_or_keep_order(
        self, query: str, documents: Iterable[Document], top_n: int | None = None
    ) -> RerankResult:
        """As RerankClient.rerank_or_keep_order."""
        asked = question(query, documents, top_n)
        return await self._run(asked, rank_or_keep_order(self._target, asked, self._timeout_s))

    async def aclose(self) -> None:
        """Close the connections of this event loop, and of loops that are not running.

        Another running loop closes its own when its calls are done.
        """
        await self._connections.aclose()

    async def __aenter__(self) -> "AsyncRerankClient":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def _run(self, asked: Question, flow: Flow) -> RerankResult:
        self._connections.require_open()
        if asked.has_images:
            # The first step reads them, which would hold up the event loop.
            step = await to_thread.run_sync(step_of, flow, abandon_on_cancel=True)
        else:
            step = step_of(flow)
        while not isinstance(step, RerankResult):
            outcome: Answer | NoAnswer | None = None
            if isinstance(step, Send):
                outcome = await self._send(step)
            else:
                await self._sleep(step.seconds)
            step = step_of(flow, outcome)
        return step

    async def _send(self, step: Send) -> Answer | NoAnswer:
        budget = Budget(step.within_s, step.max_bytes)
        try:
            with use_budget(budget):
                return await self._exchange(step, budget)
        except MemoryError:
            raise
        except Exception as error:  # no code of the caller runs in there
            return no_answer(error, closed=self._connections.closed)

    async def _exchange(self, step: Send, budget: Budget) -> Answer:
        own = await self._connections.here()
        connection = own.pool.take()
        body, broken, complete = BytesIO(), None, False
        try:
            async with connection.http.stream(**request(step)) as response:
                expect_body(response, budget)
                try:
                    async for piece in response.aiter_stream():
                        body.write(piece)
                except Exception as error:
                    broken = error
            complete = broken is None
        finally:
            await own.pool.give_back(connection, complete=complete)
        return answer(response, body, broken)
