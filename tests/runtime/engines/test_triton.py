"""A Triton that goes away and comes back, as its engine tells it."""

import logging
from typing import Any

import numpy as np
import pytest

from runtime.engines.triton import TritonEngine
from runtime.errors import EngineUnreachable


class Triton:
    """One connection to it; nobody answers while it is `away`."""

    unreachable = False

    def version(self) -> str:
        return "2.0"

    def config(self) -> dict[str, Any]:
        inputs = [{"name": name} for name in ("token_places", "input_ids", "attention_mask")]
        return {"input": inputs, "output": [{"name": "logits"}]}

    def infer(self, inputs: object, outputs: object) -> dict[str, Any]:
        if self.unreachable:
            raise ConnectionRefusedError("connection refused")
        return {"logits": np.zeros(1)}


def test_places_of_packed_graphs_are_not_sent() -> None:
    """They have no axis of rows, over which Triton makes its batches."""
    triton = Triton()
    engine = TritonEngine(lambda: triton)  # type: ignore[arg-type, return-value]
    assert engine.input_names == ["input_ids", "attention_mask"]


def test_an_unreachable_engine_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    triton = Triton()
    engine = TritonEngine(lambda: triton)  # type: ignore[arg-type, return-value]
    with caplog.at_level(logging.INFO):
        for times in (1, 2):
            triton.unreachable = True
            for _ in range(3):
                with pytest.raises(EngineUnreachable):
                    engine.run({})
            assert caplog.text.count("Triton cannot be reached: connection refused") == times
            triton.unreachable = False
            engine.run({})
