"""Observability middleware: a log line, metrics and a trace span for every HTTP request.

Unknown routes and refused keys are covered too; bytes that are not a request are not
(server.framing). Requests that only read have no span. Every answer has the request's id in
X-Request-Id: the caller's own if it is a plain word.
"""

import logging
import re
import time
import uuid
from collections.abc import Mapping, Sequence

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from runtime.postprocess import Embeddings, Ranking, Timing
from server.logs import current_request
from server.metrics import OTHER_ROUTE, Metrics
from server.tracing import Facts, Trace, Tracing

_log = logging.getLogger(__name__)

_NO_ANSWER = 499
_FIRST_ERROR = 400
_SERVER_ERROR = 500
_PLAIN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT")
_UNTRACED = ("GET", "HEAD", "OPTIONS")
# The key in the scope's state under which a request leaves the models' answers for its log line.
ANSWERED = "answered"


class ObservabilityMiddleware:
    """Middleware that logs, counts and traces requests to `app`. It never records a text, a query
    string or a header."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and record its result."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status = _NO_ANSWER
        given = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        trace = self._begin(scope, given)
        ids = ids_of(given, trace)
        extra_headers = [(b"x-request-id", ids["request_id"].encode())]
        if trace is not None:
            extra_headers.append((b"traceresponse", trace.traceresponse.encode()))

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *extra_headers]
            await send(message)

        before = current_request.set(ids)
        try:
            await self._app(scope, receive, noting_status)
        finally:
            self._record(scope, status, time.monotonic() - began, trace)
            current_request.reset(before)

    def _begin(self, scope: HTTPScope, given: Mapping[str, str]) -> Trace | None:
        """Begin the request's span; probes and pages have none."""
        if self._tracing is None or scope["method"] in _UNTRACED:
            return None
        return self._tracing.begin("HTTP", given, {"http.request.method": _method(scope)})

    def _record(self, scope: HTTPScope, status: int, seconds: float, trace: Trace | None) -> None:
        route = scope.get("path_template") or OTHER_ROUTE
        self._metrics.observe(route, status, seconds)
        answers = scope.get("state", {}).get(ANSWERED) or []
        if trace is not None:
            facts: Facts = {"http.route": route, "http.response.status_code": status}
            name = f"{_method(scope)} {route}"
            trace.end(name, facts, answers, failed=status >= _SERVER_ERROR)
        # Successful probes come every few seconds and say nothing new.
        probe = scope["method"] in ("GET", "HEAD") and status < _FIRST_ERROR
        level = logging.DEBUG if probe else logging.INFO
        summary = _answer_summary(answers) if answers else ""
        _log.log(level, "%s %s %d%s %.1f ms", _method(scope), route, status, summary, seconds * 1e3)


def ids_of(given: Mapping[str, str], trace: Trace | None) -> dict[str, str]:
    """The ids for the log lines of a request with the headers or metadata `given`."""
    requested = given.get("x-request-id", "")
    ids = {"request_id": requested if _PLAIN_ID.fullmatch(requested) else uuid.uuid4().hex}
    return ids if trace is None else {**ids, "trace_id": trace.trace_id}


def _method(scope: HTTPScope) -> str:
    """The method if it is a known one, else OTHER: it is the caller's text."""
    return scope["method"] if scope["method"] in _METHODS else "OTHER"


def slowest(answers: Sequence[Ranking | Embeddings]) -> Timing:
    """The slowest timing among the answers of one request, which ran at the same time."""
    return max((answer.timing for answer in answers), key=lambda timing: timing.total_ms)


def _answer_summary(answers: Sequence[Ranking | Embeddings]) -> str:
    """The part of a log line about answers: rows, tokens, and the slowest timing."""
    timing = slowest(answers)
    counts = [answer.token_counts for answer in answers]
    images = f" image_ms={timing.image_ms:.1f}" if timing.image_ms else ""
    return (
        f" rows={sum(map(len, counts))} tokens={sum(int(found.sum()) for found in counts)}"
        f"{images} tokenize_ms={timing.tokenize_ms:.1f} queue_ms={timing.queue_ms:.1f}"
        f" engine_ms={timing.engine_ms:.1f}"
    )
