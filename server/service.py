"""What the routes share: settings, metrics, and the model from loading to shutdown."""

import logging
import os
import threading
from functools import cached_property
from typing import NoReturn

from runtime.errors import ServingError
from runtime.model import Ranker, mock_ranker, open_ranker
from runtime.postprocess import Ranking
from runtime.text import Truncate
from server.errors import NotReady
from server.metrics import Metrics
from server.names import AcceptedNames
from server.settings import Settings
from server.variables import AUTO

_log = logging.getLogger(__name__)


class Service:
    """One per process. `stopping` is set when the process was told to end: not ready any more,
    though requests are still answered."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = False
        self._ranker: Ranker | None = None
        self.metrics = Metrics(lambda: self._ranker)

    @property
    def ranker(self) -> Ranker:
        """The loaded model; NotReady before a real inference has succeeded."""
        if self._ranker is None:
            raise NotReady
        return self._ranker

    @property
    def loaded(self) -> bool:
        """Whether `ranker` is there."""
        return self._ranker is not None

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.loaded and not self.stopping

    @property
    def served_name(self) -> str:
        """The name that /v1/models lists."""
        return self.settings.served_name or self.ranker.info.model_id

    @cached_property
    def accepted_names(self) -> AcceptedNames:
        """The names that a request may use."""
        return AcceptedNames(self.served_name)

    def start(self) -> None:
        """Log what was asked for and load the model in a thread of its own.

        The thread is a daemon: a process that is told to end does not wait for a model to load.
        """
        for notice in self.settings.notices:
            _log.warning("%s", notice)
        threading.Thread(target=self._load, name="model-loader", daemon=True).start()

    async def rank(
        self, query: str, passages: list[str], truncate: Truncate, deadline: float
    ) -> Ranking:
        """`Ranker.rank_async`, counted."""
        ranker = self.ranker
        try:
            ranking = await ranker.rank_async(query, passages, truncate=truncate, deadline=deadline)
        except BaseException:
            self.metrics.rankings_failed += 1
            raise
        self.metrics.rankings_answered += 1
        return ranking

    def close(self) -> None:
        """Answer whoever still waits and give the model back."""
        self.stopping = True
        if self._ranker is not None:
            self._ranker.close()

    def _load(self) -> None:
        try:
            ranker = _open(self.settings)
            ranker.warm_up()
        except ServingError as error:
            given = ", ".join(self.settings.model_wishes) or "nothing else"
            give_up(f"cannot serve the model: {error} (given: {given})")
        except Exception:
            _log.exception("loading the model failed unexpectedly")
            give_up("cannot serve the model")
        else:
            _log_model(ranker)
            self._ranker = ranker


def give_up(reason: str) -> NoReturn:
    """Log `reason` and end the process with status 1, from any thread.

    Nothing was served yet, so nothing is lost; a process that stays alive without ever becoming
    ready would only delay whoever started it.
    """
    _log.critical("%s", reason)
    logging.shutdown()
    os._exit(1)


def _open(settings: Settings) -> Ranker:
    if settings.model_dir is None or settings.mock:
        return mock_ranker(
            max_tokens=settings.max_tokens,
            max_rows=settings.max_rows,
            queue_rows=settings.queue_rows,
        )
    auto = settings.target == AUTO
    return open_ranker(
        settings.model_dir,
        engine="auto" if auto else None,
        target=None if auto else settings.target,
        profile=settings.model_profile,
        max_tokens=settings.max_tokens,
        max_rows=settings.max_rows,
        queue_rows=settings.queue_rows,
    )


def _log_model(ranker: Ranker) -> None:
    info = ranker.info
    if info.mock:
        _log.warning("ENABLE_MOCK_INFERENCE: scores are made up; no model is loaded")
    _log.info(
        "ready: %s version %s, engine %s on %s, precision %s, at most %d tokens, %d rows a call",
        info.model_id,
        info.version,
        info.engine,
        info.device,
        info.precision,
        info.max_tokens,
        info.max_rows,
    )
