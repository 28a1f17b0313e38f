"""Servers in the test's own process: the whole application, without a socket, asked over ASGI.

For what is about HTTP's shape. What uvicorn, our protocol and the process itself add (bytes on a
connection, signals, ports, exit codes, log lines) needs the processes of `conftest`.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any
from unittest import mock

import httpx
import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal
from litestar.types import ASGIApp, Receive, Scope, Send
from uvicorn.lifespan.on import LifespanOn

from server import loading
from server.app import create_app
from server.settings import Settings, read_settings
from tests.waiting import wait_until

_NO_PORTS = {"NIM_TRITON_METRICS_PORT": "0", "NIM_TRITON_GRPC_PORT": "0"}


class GaveUp(Exception):
    """The reason for which a process would have ended instead of becoming ready."""


class InProcess:
    """A ready server; `http` asks it. What the application raises, the client's call raises."""

    def __init__(self, http: httpx.Client, settings: Settings) -> None:
        self.http = http
        self.settings = settings

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def rank(self, body: object, **options: Any) -> httpx.Response:
        return self.http.post("/v1/ranking", json=body, **options)


Serve = Callable[[Mapping[str, str]], InProcess]


@contextmanager
def in_process(
    environment: Mapping[str, str], options: Mapping[str, str] | None = None
) -> Iterator[InProcess]:
    """A server with these variables and options; its models are closed at the end. Raises GaveUp.

    Its event loop runs in a thread, so that it leaves the process's signals alone.
    """
    settings = read_settings({**_NO_PORTS, **environment}, options or {})
    app = create_app(settings)
    with ExitStack() as running:
        portal = running.enter_context(start_blocking_portal())
        transport = _Transport(app, portal)
        http = running.enter_context(
            httpx.Client(transport=transport, base_url="http://in.process")
        )
        # Ends the process, as the last thing that the thread does that loads the models.
        reasons: list[str] = []
        with mock.patch.object(loading, "abort_start", reasons.append):
            running.enter_context(portal.wrap_async_context_manager(_lifespan(app)))
            wait_until(lambda: _is_ready(http, reasons))
        yield InProcess(http, settings)


@asynccontextmanager
async def _lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """From open to closed models, as uvicorn goes through it."""
    config = uvicorn.Config(app, lifespan="on", http="h11", ws="none", log_config=None)
    lifespan = LifespanOn(config)
    await lifespan.startup()
    assert not lifespan.should_exit
    try:
        yield
    finally:
        await lifespan.shutdown()
    assert not lifespan.should_exit


def _is_ready(http: httpx.Client, reasons: list[str]) -> bool:
    if reasons:
        raise GaveUp(reasons[0])
    return http.get("/v1/health/ready").status_code == 200


class _Transport(httpx.BaseTransport):
    """Hands requests to the application, in its event loop."""

    def __init__(self, app: ASGIApp, portal: BlockingPortal) -> None:
        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": {}}, receive, send)  # type: ignore[arg-type]

        self._asgi = httpx.ASGITransport(with_state)  # type: ignore[arg-type]
        self._portal = portal

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        return self._portal.call(self._answer, request)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        answer = await self._asgi.handle_async_request(request)
        body = await answer.aread()
        length = answer.headers.get("content-length")
        # A connection would break here.
        assert length is None or request.method == "HEAD" or int(length) == len(body)
        return httpx.Response(
            answer.status_code, headers=answer.headers, stream=httpx.ByteStream(body)
        )
