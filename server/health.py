"""Health: NIM's, KServe v2's and the plain one. Live at once; ready after a real inference."""

from litestar import Controller, HttpMethod, MediaType, Response, route
from litestar.di import NamedDependency

from server.service import Service

_PROBE = [HttpMethod.GET, HttpMethod.HEAD]
_UNAVAILABLE = 503


def _status(ready: bool) -> int:
    return 200 if ready else _UNAVAILABLE


def _empty(status: int) -> Response[bytes]:
    return Response(b"", status_code=status, media_type=MediaType.TEXT)


class Health(Controller):
    """Open without a key (server.auth). nv-ingest reads 200 as ready and 503 as not yet."""

    @route("/v1/health/live", http_method=_PROBE)
    async def live(self) -> Response[dict[str, str]]:
        """The process answers."""
        return Response({"object": "health.response", "message": "Service is live."})

    @route("/v1/health/ready", http_method=_PROBE)
    async def ready(self, service: NamedDependency[Service]) -> Response[dict[str, str]]:
        """The model answers."""
        state = "ready" if service.ready else "not ready"
        return Response(
            {"object": "health.response", "message": f"Service is {state}."},
            status_code=_status(service.ready),
        )

    @route("/v2/health/live", http_method=_PROBE)
    async def kserve_live(self) -> Response[bytes]:
        """KServe v2: empty 200."""
        return _empty(200)

    @route("/v2/health/ready", http_method=_PROBE)
    async def kserve_ready(self, service: NamedDependency[Service]) -> Response[bytes]:
        """KServe v2: empty 200 or 503."""
        return _empty(_status(service.ready))

    @route("/health", http_method=_PROBE)
    async def health(self, service: NamedDependency[Service]) -> Response[dict[str, object]]:
        """Status, whether the model is loaded, and where it runs."""
        loaded = service.loaded
        status = "ok" if service.ready else "stopping" if loaded else "loading"
        return Response(
            {
                "status": status,
                "model_loaded": loaded,
                "device": service.ranker.info.device if loaded else None,
            },
            status_code=_status(service.ready),
        )
