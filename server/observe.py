"""One log line and one count for every request, unknown routes and refused keys included."""

import logging
import time
from collections.abc import Sequence

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from runtime.postprocess import Embeddings, Ranking, Timing
from server.metrics import OTHER_ROUTE, Metrics

_log = logging.getLogger(__name__)

_NO_ANSWER = 499
_FIRST_ERROR = 400
# Where a request's answers of the models are left for its log line, in the scope's state.
ANSWERED = "answered"


class Observer:
    """Counts and logs what passes to `app`; never a text, a query string or a header."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and record how it went."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status = _NO_ANSWER

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_status)
        finally:
            self._record(scope, status, time.monotonic() - began)

    def _record(self, scope: HTTPScope, status: int, seconds: float) -> None:
        route = scope.get("path_template") or OTHER_ROUTE
        self._metrics.observe(route, status, seconds)
        answers = scope.get("state", {}).get(ANSWERED)
        # Probes come every few seconds and say nothing new while all is well.
        probe = scope["method"] in ("GET", "HEAD") and status < _FIRST_ERROR
        level = logging.DEBUG if probe else logging.INFO
        told = _told(answers) if answers else ""
        _log.log(level, "%s %s %d%s %.1f ms", scope["method"], route, status, told, seconds * 1e3)


def slowest(answers: Sequence[Ranking | Embeddings]) -> Timing:
    """The timing that stands for all answers of one request: they ran at the same time."""
    return max((answer.timing for answer in answers), key=lambda timing: timing.total_ms)


def _told(answers: Sequence[Ranking | Embeddings]) -> str:
    """Rows and tokens in all, and the timing of the slowest answer."""
    timing = slowest(answers)
    counts = [answer.token_counts for answer in answers]
    return (
        f" rows={sum(map(len, counts))} tokens={sum(int(found.sum()) for found in counts)}"
        f" tokenize_ms={timing.tokenize_ms:.1f} queue_ms={timing.queue_ms:.1f}"
        f" engine_ms={timing.engine_ms:.1f}"
    )
