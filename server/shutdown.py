"""Graceful shutdown: not ready at once, running requests until a deadline, 503 for the rest."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from runtime.errors import ModelClosed
from server.errors import ErrorFormat, classify_error
from server.service import Service
from server.surface import send_failure

# How long the process still accepts requests after the signal, so that load balancers notice that
# it is not ready.
_NOT_READY_NOTICE_S = 0.5
# Time for writing the answers of closing models.
_RESPONSE_GRACE_S = 0.5
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Shutdown:
    """Shutdown on SIGTERM and SIGINT, and the middleware that answers late requests with 503."""

    def __init__(self, service: Service, error_format_of: Callable[[Scope], ErrorFormat]) -> None:
        self._service = service
        self._error_format_of = error_format_of
        self._running: set[asyncio.Task[object]] = set()
        self._signalled = False
        self._deadline_passed = False

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Middleware: requests to `app` that run past the drain timeout are answered with 503."""

        async def middleware_app(scope: Scope, receive: Receive, send: Send) -> None:
            task = asyncio.current_task()
            if scope["type"] != ScopeType.HTTP or task is None:
                await app(scope, receive, send)
                return
            begun = False

            async def noting_start(message: Message) -> None:
                nonlocal begun
                begun = True
                await send(message)

            self._running.add(task)
            try:
                await app(scope, receive, noting_start)
            except asyncio.CancelledError:
                if not self._deadline_passed or begun:
                    raise
                closed = ModelClosed()
                self._service.metrics.count_refusal(closed)
                failure = classify_error(closed, self._service.settings)
                await send_failure(failure, self._error_format_of(scope), send)
            finally:
                self._running.discard(task)

        return middleware_app

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """On SIGTERM or SIGINT, report not ready before the server stops. A second signal ends the
        process at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        loop = asyncio.get_running_loop()

        def handle(number: int, frame: FrameType | None) -> None:
            if self._signalled:
                # Not by the signal's default action: PID 1 of a container has none.
                os._exit(128 + number)
            self._signalled = True
            notice_s = _NOT_READY_NOTICE_S if self._service.ready else 0
            self._service.stopping = True
            act = before[signal.Signals(number)]
            if callable(act):
                loop.call_soon_threadsafe(loop.call_later, notice_s, act, number, frame)
            drain_s = self._service.settings.drain_timeout_s
            loop.call_soon_threadsafe(loop.call_later, drain_s, self._close_models)

        for number in _SIGNALS:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _close_models(self) -> None:
        """Close the models, which answers requests that wait for them over HTTP and gRPC; then end
        all other requests."""
        threading.Thread(target=self._service.close, name="model-closer", daemon=True).start()
        asyncio.get_running_loop().call_later(_RESPONSE_GRACE_S, self._end_the_rest)

    def _end_the_rest(self) -> None:
        self._deadline_passed = True
        for task in list(self._running):
            task.cancel()
