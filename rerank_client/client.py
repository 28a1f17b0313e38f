"""The blocking client."""

import time
from collections.abc import Callable, Iterable

import httpx

from rerank_client.answer import Answer, NoAnswer
from rerank_client.flow import Flow, Send, rank, rank_or_keep_order
from rerank_client.question import question
from rerank_client.result import RerankResult
from rerank_client.surface import RERANK, Surface
from rerank_client.target import find_target
from rerank_client.transport import SEND_ERRORS, answer, no_answer

TIMEOUT_S = 60.0


class RerankClient:
    """Asks one server (POST /rerank, or what `surface` says) over connections that stay open.

    Threads may share a client. Close it, or use it as a context manager.
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

        `api_key` is sent as the bearer. `timeout_s` bounds each wait for the server (to connect,
        to take the request, for the next piece of the answer) of each attempt. `surface`
        is the HTTP contract (`rerank_client.nim(…)` for a ranking NIM). `sleep` waits between
        attempts. Raises RerankError when the address or the key cannot be used.
        """
        self._target = find_target(base_url, api_key, surface)
        self._http = httpx.Client(timeout=timeout_s)
        self._sleep = sleep

    def rerank(
        self, query: str, documents: Iterable[str], top_n: int | None = None
    ) -> RerankResult:
        """Rank the documents by how well they answer the query; at most 3 attempts.

        No documents: an empty result, nobody is asked. Raises RerankError when there is no
        ranking to be had; TypeError and ValueError for arguments of the wrong kind.
        """
        return self._run(rank(self._target, question(query, documents, top_n)))

    def rerank_or_keep_order(
        self, query: str, documents: Iterable[str], top_n: int | None = None
    ) -> RerankResult:
        """As `rerank`, but instead of a RerankError the documents in the order they came in.

        That result has `degraded` true and scores of 0.0, and a warning is logged.
        """
        return self._run(rank_or_keep_order(self._target, question(query, documents, top_n)))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> "RerankClient":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self, flow: Flow) -> RerankResult:
        outcome: Answer | NoAnswer | None = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                result: RerankResult = end.value
                return result
            if isinstance(step, Send):
                outcome = self._send(step)
            else:
                self._sleep(step.seconds)
                outcome = None

    def _send(self, step: Send) -> Answer | NoAnswer:
        try:
            response = self._http.post(step.url, content=step.body, headers=step.headers)
        except SEND_ERRORS as error:
            return no_answer(error)
        return answer(response)
