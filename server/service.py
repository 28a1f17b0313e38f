"""What the routes share: settings, metrics, and the models from loading to shutdown."""

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, cast

from runtime.embedder import Embedder
from runtime.errors import ServingError
from runtime.model import Model
from runtime.opening import Bounds, mock_model, open_model
from runtime.profile import Kind, load_model_profile
from runtime.ranker import Ranker
from runtime.selection import AUTO, ONNX
from server.errors import NotReady, NotServed
from server.metrics import Metrics
from server.names import AcceptedNames
from server.settings import Settings
from server.tally import Tally

_log = logging.getLogger(__name__)

_WORDS: Mapping[Kind, tuple[str, str]] = {
    "rank": ("reranker", "--rank"),
    "embed": ("embedder", "--embed"),
}


@dataclass(frozen=True)
class Served:
    """A loaded model: the name that /v1/models lists, those that requests may use, where it came
    from (None: made up), and what it was asked."""

    model: Model
    name: str
    accepted_names: AcceptedNames
    directory: Path | None
    tally: Tally = field(default_factory=Tally)


class Service:
    """One per process. `stopping` is set when the process was told to end: not ready any more,
    though requests are still answered."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = False
        self._served: dict[Kind, Served] = {}
        self._all_loaded = False
        self.metrics = Metrics(lambda: self._served.values())

    @property
    def loaded(self) -> bool:
        """Whether every model answered a real inference."""
        return self._all_loaded

    @property
    def alive(self) -> bool:
        """Whether this process can still answer; a device that is lost takes a new one."""
        return not any(served.model.lost for served in self._served.values())

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.loaded and self.alive and not self.stopping

    @property
    def all_served(self) -> list[Served]:
        """Every model, the reranker first; NotReady before all are loaded."""
        if not self._all_loaded:
            raise NotReady
        return [self._served[kind] for kind in _WORDS if kind in self._served]

    @property
    def primary(self) -> Served:
        """The model that health and metadata speak of."""
        return self.all_served[0]

    def served(self, kind: Kind) -> Served:
        """The model of `kind`; NotReady while models load, NotServed when there is none."""
        if not self._all_loaded:
            raise NotReady
        if kind not in self._served:
            raise NotServed(*_WORDS[kind])
        return self._served[kind]

    @property
    def ranker(self) -> Ranker:
        """The reranker. Raises as `served` does."""
        return cast(Ranker, self.served("rank").model)

    @property
    def embedder(self) -> Embedder:
        """The embedder. Raises as `served` does."""
        return cast(Embedder, self.served("embed").model)

    def start(self) -> None:
        """Log what was asked for and load the models in a thread of its own.

        The thread is a daemon: a process that is told to end does not wait for a model to load.
        """
        for notice in self.settings.notices:
            _log.warning("%s", notice)
        threading.Thread(target=self._load, name="model-loader", daemon=True).start()

    def close(self) -> None:
        """Answer whoever still waits and give the models back."""
        self.stopping = True
        for served in self._served.values():
            served.model.close()

    def _load(self) -> None:
        try:
            for model, directory in _open_all(self.settings):
                self._add(model, directory)
        except ServingError as error:
            given = ", ".join(self.settings.model_wishes) or "nothing else"
            give_up(f"cannot serve the model: {error} (given: {given})")
        except Exception:
            _log.exception("loading the model failed unexpectedly")
            give_up("cannot serve the model")
        else:
            self._all_loaded = True

    def _add(self, model: Model, directory: Path | None) -> None:
        model.warm_up()
        _log_model(model)
        # The reranker comes first, and a name that was set is the first model's.
        own = self.settings.served_name if not self._served else None
        name = own or model.info.model_id
        kind = model.info.kind
        self._served[kind] = Served(model, name, AcceptedNames(name, kind), directory)


def give_up(reason: str) -> NoReturn:
    """Log `reason` and end the process with status 1, from any thread.

    Nothing was served yet, so nothing is lost; a process that stays alive without ever becoming
    ready would only delay whoever started it.
    """
    _log.critical("%s", reason)
    logging.shutdown()
    os._exit(1)


def _open_all(settings: Settings) -> Iterator[tuple[Model, Path | None]]:
    """Every model that the settings name and its directory, the reranker first."""
    bounds = Bounds(
        max_tokens=settings.max_tokens,
        max_rows=settings.max_rows,
        queue_rows=settings.queue_rows,
        window_s=settings.batch_window_us * 1e-6,
    )
    if settings.mock:
        yield mock_model("rank", **bounds), None
        yield mock_model("embed", **bounds), None
        return
    choice = settings.target if settings.target in (AUTO, ONNX) else None
    directories = _directories(settings)
    for kind, directory in directories:
        model = open_model(
            directory,
            kind=kind,
            engine=choice,
            target=None if choice else settings.target,
            profile=_profile_for(kind, settings, alone=len(directories) == 1),
            cache=settings.cache_dir,
            memory_bytes=settings.gpu_memory_bytes,
            host_code=settings.host_code,
            **bounds,
        )
        yield model, directory


def _directories(settings: Settings) -> list[tuple[Kind | None, Path]]:
    """What to open, as which kind; None where only the directory itself can tell."""
    alone = settings.embed_dir is None
    named: list[tuple[Kind | None, Path | None]] = [
        (None if alone else "rank", settings.custom_dir),
        ("rank", settings.rank_dir),
        ("embed", settings.embed_dir),
    ]
    return [(kind, directory) for kind, directory in named if directory is not None]


def _profile_for(kind: Kind | None, settings: Settings, *, alone: bool) -> str | None:
    """RERANK_MODEL_PROFILE where it is meant: of two models, it can describe one."""
    name = settings.model_profile
    if name is None or alone or load_model_profile(name).kind == kind:
        return name
    return None


def _log_model(model: Model) -> None:
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
