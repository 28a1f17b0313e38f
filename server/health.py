"""Health routes: NIM's, KServe v2's and a plain one. Live at once, ready after a real inference."""

from typing import Literal

import msgspec
from litestar import Controller, HttpMethod, Response, route
from litestar.di import NamedDependency

from server.nim_error import error_body
from server.service import Service
from server.surface import Surface

_PROBE = [HttpMethod.GET, HttpMethod.HEAD]
_UNAVAILABLE = 503
_ANSWERS = (200, _UNAVAILABLE)


class HealthReply(msgspec.Struct):
    """NIM's health body. The embedding NIM spells `object` with a hyphen."""

    object: Literal["health.response", "health-response"]
    message: str


class PlainHealth(msgspec.Struct):
    """GET /health; `device` is null while the model loads."""

    status: Literal["ok", "loading", "stopping", "failed"]
    model_loaded: bool
    device: str | None


class ServerLive(msgspec.Struct):
    """KServe's body: whether the process answers."""

    live: bool


class ServerReady(msgspec.Struct):
    """KServe's body: whether every model answers."""

    ready: bool


def _status(ready: bool) -> int:
    return 200 if ready else _UNAVAILABLE


def _reply(service: Service, name: str, ok: bool) -> Response[HealthReply]:
    embeds = service.loaded and service.primary.model.info.kind == "embed"
    message = f"Service is {name if ok else f'not {name}'}."
    reply = HealthReply("health-response" if embeds else "health.response", message)
    return Response(reply, status_code=_status(ok))


class Health(Controller):
    """Open without a key (server.auth). nv-ingest reads 200 as ready and 503 as not yet."""

    tags = ("Health",)

    @route("/v1/health/live", http_method=_PROBE, answers=_ANSWERS)
    async def live(self, service: NamedDependency[Service]) -> Response[HealthReply]:
        """The process answers.

        No engine hangs and no device is lost; 503 asks for a restart.
        """
        return _reply(service, "live", service.live)

    @route("/v1/health/ready", http_method=_PROBE, answers=_ANSWERS)
    async def ready(self, service: NamedDependency[Service]) -> Response[HealthReply]:
        """The model answers."""
        return _reply(service, "ready", service.ready)

    @route("/v2/health/live", http_method=_PROBE, answers=_ANSWERS)
    async def kserve_live(self, service: NamedDependency[Service]) -> Response[ServerLive]:
        """KServe v2: the process answers."""
        return Response(ServerLive(live := service.live), status_code=_status(live))

    @route("/v2/health/ready", http_method=_PROBE, answers=_ANSWERS)
    async def kserve_ready(self, service: NamedDependency[Service]) -> Response[ServerReady]:
        """KServe v2: the model answers."""
        return Response(ServerReady(ready := service.ready), status_code=_status(ready))

    @route("/health", http_method=_PROBE, answers=_ANSWERS)
    async def health(self, service: NamedDependency[Service]) -> Response[PlainHealth]:
        """Status and device."""
        found = service.health_state()
        status: Literal["ok", "loading", "stopping", "failed"]
        status = "stopping" if found.loaded else "loading"
        if found.ready:
            status = "ok"
        elif not found.live or found.engine_unreachable:
            status = "failed"
        device = service.primary.model.info.device if found.loaded else None
        return Response(
            PlainHealth(status=status, model_loaded=found.loaded, device=device),
            status_code=_status(found.ready),
        )


SURFACE = Surface(controllers=(Health,), error_format=error_body, paths=("/health", "/v1/health/"))
