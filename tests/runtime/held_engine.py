"""An engine that a test holds until everybody waits for it."""

import asyncio
import threading
from typing import Any

import pytest

from runtime.model import Model
from tests.waiting import PATIENCE_S


class HeldEngine:
    """Holds the calls of `model`'s engine until they are let go."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self._model = model
        self._rows: list[int] = []
        self._free = threading.Event()
        self._compute = model._engine.run
        monkeypatch.setattr(model._engine, "run", self._run)

    def _run(self, inputs: Any) -> Any:
        self._rows.append(len(inputs["input_ids"]))
        assert self._free.wait(PATIENCE_S)
        return self._compute(inputs)

    async def let_go_after(self, rows: int) -> None:
        """Once so many rows are in its calls or wait for one."""
        async with asyncio.timeout(PATIENCE_S):
            while sum(self._rows) + self._model.scheduler.queue_depth()[0] < rows:
                await asyncio.sleep(0.001)
        self._free.set()
