"""Model control: reload a model on request, over HTTP and gRPC."""

import asyncio
from functools import partial

from runtime.daemon import run_in_daemon
from runtime.errors import ArtifactError, EngineError
from server.errors import RequestRefused
from server.kserve.models import KserveModel
from server.reloading import NotReloaded, reload_model
from server.service import Service


class ModelControlRefused(RequestRefused):
    """A model control request that is not allowed or not supported."""


async def reload(service: Service, model: KserveModel) -> None:
    """Reload `model` and wait for it; the old model stays if the new one cannot be served.

    Raises ModelControlRefused without RERANK_MODEL_CONTROL, NotReloaded, or Unavailable
    (ReloadInProgress while another reload runs).
    """
    if not service.settings.model_control:
        raise ModelControlRefused(
            "found a request to load, which is allowed with a key (NIM_REQUIRE_AUTH) or with "
            "RERANK_MODEL_CONTROL=true; SIGHUP reloads as well"
        )
    try:
        work = partial(reload_model, service, model.kind)
        await asyncio.wrap_future(run_in_daemon(work, "reloader"))
    except (ArtifactError, EngineError) as error:
        raise NotReloaded(error) from error
