"""The blocking client."""

import time
from collections.abc import Callable, Iterable
from io import BytesIO

from rerank_client.answer import Answer, NoAnswer
from rerank_client.budget import Budget, use_budget
from rerank_client.connections import Connections
from rerank_client.flow import TIMEOUT_S, Flow, Send, limit_of, rank, rank_or_keep_order, step_of
from rerank_client.network import Network
from rerank_client.question import Document, question
from rerank_client.result import RerankResult
from rerank_client.surface import RERANK, Surface
from rerank_client.target import find_target
from rerank_client.transport import answer, expect_body, no_answer, request


class RerankClient:
    """Client of one server (POST /rerank, or another `surface`) with persistent connections.

    Threads may share a client; a forked process opens its own connections. Close it, or use it as
    a context manager: a call after that raises RuntimeError.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        surface: Surface = RERANK,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """`base_url` None: RERANK_URL as it is now, else http://localhost:8000.

        `api_key` is sent as the bearer token. `timeout_s` limits a whole call, in seconds: all
        attempts, and the delays between them. An attempt may take the remaining time, but
        connecting only its share of it. Only the look-up of a host name cannot be cut short.
        `surface` is the HTTP contract (`rerank_client.nim(…)` for a ranking NIM). `sleep` waits
        between attempts.

        Raises ValueError for an invalid `timeout_s`, RerankError when the address, the key, or the
        environment's certificates or proxies cannot be used.
        """
        self._timeout_s = limit_of(timeout_s)
        self._target = find_target(base_url, api_key, surface)
        self._connections = Connections(Network(self._target.url, tls_in_tls=False))
        self._sleep = sleep

    def rerank(
        self, query: str, documents: Iterable[Document], top_n: int | None = None
    ) -> RerankResult:
        """Rank the documents by how well they answer the query; at most 3 attempts.

        A document is a text, or for a model that takes images a `Passage`: a dict of `text`,
        `image` or both. Images are read before anything is sent.

        No documents: an empty result without a request. Raises RerankError when there is no
        ranking; TypeError and ValueError for arguments of the wrong kind.
        """
        return self._run(rank(self._target, question(query, documents, top_n), self._timeout_s))

    def rerank_or_keep_order(
        self, query: str, documents: Iterable[Document], top_n: int | None = None
    ) -> RerankResult:
        """As `rerank`, but returns the documents in the given order instead of a RerankError.

        That result has `degraded` true and scores of 0.0, and a warning is logged.
        """
        asked = question(query, documents, top_n)
        return self._run(rank_or_keep_order(self._target, asked, self._timeout_s))

    def close(self) -> None:
        """Close the connections. Calls still running in other threads raise RerankError."""
        self._connections.close()

    def __enter__(self) -> "RerankClient":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self, flow: Flow) -> RerankResult:
        self._connections.require_open()
        step = step_of(flow)
        while not isinstance(step, RerankResult):
            outcome: Answer | NoAnswer | None = None
            if isinstance(step, Send):
                outcome = self._send(step)
            else:
                self._sleep(step.seconds)
            step = step_of(flow, outcome)
        return step

    def _send(self, step: Send) -> Answer | NoAnswer:
        budget = Budget(step.within_s, step.max_bytes)
        try:
            with use_budget(budget):
                return self._exchange(step, budget)
        except MemoryError:
            raise
        except Exception as error:  # no code of the caller runs in there
            return no_answer(error, closed=self._connections.closed)

    def _exchange(self, step: Send, budget: Budget) -> Answer:
        connection = self._connections.take()
        body, broken, complete = BytesIO(), None, False
        try:
            with connection.http.stream(**request(step)) as response:
                expect_body(response, budget)
                try:
                    for piece in response.iter_stream():
                        body.write(piece)
                except Exception as error:
                    broken = error
            complete = broken is None
        finally:
            self._connections.give_back(connection, complete=complete)
        return answer(response, body, broken)
