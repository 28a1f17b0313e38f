"""The application: the only place where routes are listed.

`uvicorn --factory server.app:create_app` reads the settings from the environment.
"""

import asyncio
import multiprocessing
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from typing import NoReturn

from litestar import Litestar, get
from litestar.di import NamedDependency, Provide
from litestar.types import ASGIApp, ControllerRouterHandler

from server import health, metadata, pages
from server.auth import AccessMiddleware
from server.descriptors import raise_descriptor_limit
from server.errors import AnyRequest, exception_handler
from server.exchange import Exchange
from server.kserve.grpc_service import GrpcServer
from server.libraries import prepare_libraries
from server.listen import SideListener, bind_port
from server.loading import abort_start, start
from server.logs import configure_logging, report_startup_error, wants_json_logs
from server.metrics import CONTENT_TYPE
from server.nim_error import error_body
from server.observability import ObservabilityMiddleware
from server.openapi import document, operations
from server.process_limits import LimitExceeded, check_process_limits, find_exceeded_limit
from server.reloading import reloading_on_signal
from server.service import Service
from server.settings import Settings, SettingsError, read_settings
from server.shutdown import Shutdown
from server.surface import Surface, error_format_chooser
from server.surfaces import cohere, kserve, nim, openai, rerank, tei, vllm


@get("/metrics", media_type=CONTENT_TYPE)
async def _metrics(service: NamedDependency[Service]) -> bytes:
    return service.metrics.render()


Lifespan = Callable[[Litestar], AbstractAsyncContextManager[None]]

SURFACES: tuple[Surface, ...] = (
    health.SURFACE,
    metadata.SURFACE,
    nim.SURFACE,
    openai.SURFACE,
    rerank.SURFACE,
    *cohere.SURFACES,
    vllm.SURFACE,
    tei.SURFACE,
    kserve.SURFACE,
    pages.OPENAPI,
    pages.PAGES,
)
# Paths that no surface claims get NIM's error body.
error_format_of = error_format_chooser(SURFACES, error_body)

METRICS_ROUTES: list[ControllerRouterHandler] = [_metrics]
TRITON_ROUTES = [*health.SURFACE.controllers, *kserve.SURFACE.controllers]


def create_app(settings: Settings | None = None) -> ASGIApp:
    """The whole ASGI application.

    Without `settings` they are read from the environment, and logging and the limit of file
    descriptors are set up as in `rerank-serve`. Raises SystemExit, after one line, when the
    environment cannot be used.
    """
    prepare_libraries()
    if settings is None:
        _refuse_workers()
        try:
            settings = read_settings(os.environ)
            check_process_limits()
        except (SettingsError, LimitExceeded) as error:
            _refuse(str(error))
        configure_logging(settings.log_level, as_json=settings.json_logs)
        raise_descriptor_limit()
    service = Service(settings)
    shutdown = Shutdown(service, error_format_of)
    surfaces = (one for one in SURFACES if settings.ui or one is not pages.PAGES)
    routes = [controller for surface in surfaces for controller in surface.controllers]
    app = routed(routes, service, lambda _: _running(service, shutdown))
    app.state[pages.OPENAPI_DOCUMENT] = document(operations(app, error_format_of), settings)
    return _behind_middleware(app, service, shutdown)


def _behind_middleware(app: ASGIApp, service: Service, shutdown: Shutdown) -> ASGIApp:
    """`app` behind the middleware that sees every request, also for unknown routes and with wrong
    methods, which Litestar's own middleware never sees."""
    app = AccessMiddleware(app, service.settings, error_format_of)
    app = shutdown.middleware(app)
    return ObservabilityMiddleware(app, service.metrics, service.tracing)


def _refuse_workers() -> None:
    """End uvicorn when it runs several workers, because each would open its own model.

    The supervisor gets SIGTERM too, or it would restart the failing worker again and again.
    """
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None or "--reload" in sys.argv:
        return
    os.kill(parent.pid, signal.SIGTERM)
    _refuse(
        "found several uvicorn workers, each of which would hold the model's memory and fight for "
        "the cores; one process serves all requests and uses every core: leave --workers and "
        "WEB_CONCURRENCY out"
    )


def _refuse(reason: str) -> NoReturn:
    report_startup_error(reason, as_json=wants_json_logs(os.environ))
    raise SystemExit(1) from None


def routed(
    routes: list[ControllerRouterHandler], service: Service, *lifespan: Lifespan
) -> Litestar:
    """The router, with the middleware that only routed requests need."""

    def exchange(request: AnyRequest) -> Exchange:
        return Exchange(request, service)

    return Litestar(
        route_handlers=routes,
        dependencies={
            "service": Provide(lambda: service, sync_to_thread=False),
            "exchange": Provide(exchange, sync_to_thread=False),
        },
        exception_handlers={
            Exception: exception_handler(
                error_format_of, service.settings, service.metrics.count_refusal
            )
        },
        middleware=[service.body_budget.middleware],
        lifespan=lifespan,
        openapi_config=None,
        logging_config=None,
        # server.connection reads bodies and limits their size.
        request_max_body_size=None,
    )


@asynccontextmanager
async def _running(service: Service, shutdown: Shutdown) -> AsyncIterator[None]:
    """The lifespan: open the ports, load the models, and close both at the end."""
    with ExitStack() as signals:
        with _ended_by_limits():
            closers = await _open_ports(service, shutdown)
            start(service)
            signals.enter_context(shutdown.on_signals())
            signals.enter_context(reloading_on_signal(service))
        yield
        # Running requests are answered first, on these ports as on the API's.
        await asyncio.gather(*(close() for close in closers))
        await asyncio.to_thread(service.close)
        if service.tracing is not None:
            await asyncio.to_thread(service.tracing.close)


@contextmanager
def _ended_by_limits() -> Iterator[None]:
    """Exit with one line when the block exceeds a limit of threads or memory."""
    try:
        yield
    except Exception as error:
        limit = find_exceeded_limit(error)
        if limit is None:
            raise
        abort_start(f"cannot start: {limit}")


async def _open_ports(service: Service, shutdown: Shutdown) -> list[Callable[[], Awaitable[None]]]:
    """Open the ports beside the API's. Returns a function to close each listener."""
    settings = service.settings
    closers: list[Callable[[], Awaitable[None]]] = []
    try:
        for port, setting, routes in (
            (settings.metrics_port, "NIM_TRITON_METRICS_PORT", METRICS_ROUTES),
            (settings.triton_port, "NIM_HTTP_TRITON_PORT", TRITON_ROUTES),
        ):
            if port:
                taken = bind_port(settings.host, port, setting)
                app = _behind_middleware(routed(routes, service), service, shutdown)
                closers.append(SideListener(app, taken, settings).close)
        if settings.grpc_port:
            grpc = GrpcServer(service)
            await grpc.start(settings.host, settings.grpc_port)
            closers.append(grpc.stop)
    except SettingsError as error:
        abort_start(str(error))
    return closers
