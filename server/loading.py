"""Open and warm up the models of the settings, and watch their engines."""

import logging
import os
import threading
import time
from functools import partial
from pathlib import Path
from typing import NoReturn

from runtime.artifact import closed_on_error
from runtime.errors import ServingError
from runtime.model import Model
from runtime.opening import ModelLimits, mock_model, open_model
from runtime.profile import Kind, load_model_profile
from runtime.ranker import Ranker
from runtime.selection import AUTO, ONNX
from runtime.vision.limits import ImageLimits, VisionLimits
from server.memory import map_large_blocks
from server.process_limits import find_exceeded_limit
from server.served import Served
from server.service import Service
from server.settings import Settings
from server.variables import TRITON

_log = logging.getLogger(__name__)

# How often the watchdog checks all served engines.
_WATCHDOG_INTERVAL_S = 1.0


def start(service: Service) -> None:
    """Log the settings' notices, and start the thread that loads the models and the engine
    watchdog.

    The threads are daemons, so that a stopping process does not wait for a model to load.
    """
    for notice in service.settings.notices:
        _log.warning("%s", notice)
    map_large_blocks()
    for name, work in (("model-loader", load), ("engine-watchdog", _watch_engines)):
        threading.Thread(target=work, args=(service,), name=name, daemon=True).start()


def abort_start(reason: str) -> NoReturn:
    """Log `reason` and end the process with status 1, from any thread.

    Nothing is served yet, so nothing is lost. A process that never becomes ready would only delay
    its orchestrator.
    """
    _log.critical("%s", reason)
    logging.shutdown()
    os._exit(1)


def load(service: Service) -> None:
    """Open and warm up every model, the reranker first; ends the process if one cannot be."""
    settings = service.settings
    try:
        for kind, directory in _directories(settings):
            _add(service, open_served(settings, kind, directory), directory)
    except ServingError as error:
        given = ", ".join(settings.model_args) or "nothing else"
        reason = find_exceeded_limit(error) or error
        abort_start(f"cannot serve the model: {reason} (given: {given})")
    except BaseException as error:  # a Rust panic of the tokenizer is not an Exception
        limit = find_exceeded_limit(error)
        if limit is None:
            _log.exception("loading the model failed unexpectedly")
        abort_start("cannot serve the model" + (f": {limit}" if limit else ""))
    else:
        service.loaded = True


def _add(service: Service, model: Model, directory: Path | None) -> None:
    service.warming = model
    with closed_on_error(model):
        model.warm_up()
    service.warming = None
    log_model(model)
    # The reranker is loaded first; the setting names the first model.
    own = service.settings.served_name if not service.models else None
    kind = model.info.kind
    model.scheduler.on_engine_call(partial(service.metrics.observe_call, kind))
    service.models[kind] = Served(model, own or model.info.model_id, directory)


def open_served(settings: Settings, kind: Kind | None, directory: Path | None) -> Model:
    """Open the model of `kind` in `directory`; the mock without a directory."""
    bounds = ModelLimits(
        max_tokens=settings.max_tokens,
        max_rows=settings.max_rows,
        queue_rows=settings.queue_rows,
        queue_tokens=settings.queue_tokens,
        window_s=settings.batch_window_us * 1e-6,
        vision=VisionLimits(
            ImageLimits(settings.image_bytes, settings.image_pixels),
            request_tiles=settings.image_tiles,
            held_tiles=2 * settings.image_tiles,
            cache_bytes=settings.image_cache_bytes,
        ),
    )
    # Triton's repository holds the reranker only.
    triton = None if kind == "embed" else settings.triton_engine
    if directory is None:
        return mock_model(kind or "rank", triton, **bounds)
    choice = settings.target if settings.target in (AUTO, ONNX) else None
    model = open_model(
        directory,
        kind=kind,
        engine=triton or choice,
        target=None if choice or settings.target == TRITON else settings.target,
        profile=_profile_for(kind, settings),
        cache=settings.cache_dir,
        memory_bytes=settings.gpu_memory_bytes,
        host_code=settings.host_code,
        **bounds,
    )
    with closed_on_error(model):
        if settings.plain_special_tokens and isinstance(model, Ranker):
            model.encoder.check_plain()
    return model


def _directories(settings: Settings) -> list[tuple[Kind | None, Path | None]]:
    """The directories to open with their kinds. The kind is None if only the directory can tell;
    the directory is None for the mock."""
    if settings.mock:
        return [("rank", None), ("embed", None)]
    alone = settings.embed_dir is None
    named: list[tuple[Kind | None, Path | None]] = [
        (None if alone else "rank", settings.custom_dir),
        ("rank", settings.rank_dir),
        ("embed", settings.embed_dir),
    ]
    return [(kind, directory) for kind, directory in named if directory is not None]


def _profile_for(kind: Kind | None, settings: Settings) -> str | None:
    """RERANK_MODEL_PROFILE if it applies to this model; of two models it describes one."""
    name = settings.model_profile
    alone = len(_directories(settings)) == 1
    return name if name is None or alone or load_model_profile(name).kind == kind else None


def log_model(model: Model) -> None:
    """Log that `model` is ready, and what it is."""
    info = model.info
    if info.mock:
        _log.warning("ENABLE_MOCK_INFERENCE: scores are made up; no model is loaded")
    _log.info(
        "ready: %s version %s (%s), engine %s on %s, precision %s, at most %d tokens, %d rows a "
        "call",
        info.model_id,
        info.version,
        info.kind,
        info.engine,
        info.device,
        info.precision,
        info.max_tokens,
        info.max_rows,
    )


def _watch_engines(service: Service) -> None:
    """The watchdog thread: log engine faults, and poll unreachable engines, because they get no
    requests until they are reachable."""
    last_reasons: dict[Kind, str] = {}
    lost = False
    while not service.stopping:
        time.sleep(_WATCHDOG_INTERVAL_S)
        faulty = service.find_fault()
        # `stopping` is checked after the fault: closed models also have ended threads.
        if faulty is not None and not lost and not service.stopping:
            _log.critical("%s: %s; the process must be restarted", *faulty)
        lost = faulty is not None
        for kind, served in list(service.models.items()):
            if served.model.scheduler.unreachable:
                last_reasons[kind] = _reconnect(served.model, last_reasons.get(kind, ""))


def _reconnect(model: Model, last_reason: str) -> str:
    """Poll an unreachable engine. Returns why it is still unreachable, or "". The reason is logged
    as a warning unless it is `last_reason`."""
    try:
        model.reconnect()
    except Exception as error:  # whatever it is, the engine is polled again
        known = isinstance(error, ServingError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        level = logging.DEBUG if reason == last_reason else logging.WARNING
        _log.log(level, "%s: not ready, polled again every second: %s", model.info.kind, reason)
        return reason
    _log.info("%s: the engine is reachable again", model.info.kind)
    return ""
