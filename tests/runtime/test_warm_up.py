"""The first calls on a GPU: the largest goes first, and what does not fit is found out."""

from collections.abc import Mapping

import numpy as np
import pytest

from runtime.engines.mock import MockEngine
from runtime.errors import DeviceLost, OutOfMemory
from runtime.opening import mock_model
from runtime.profile import Kind
from runtime.ranker import Ranker

Calls = list[tuple[int, int]]
compute = MockEngine.run


def on_gpu(monkeypatch: pytest.MonkeyPatch, room: int = 1 << 30) -> Calls:
    """Let the mock be on a GPU with memory for calls of `room` tokens; the calls it gets."""
    calls: Calls = []

    def run(self: MockEngine, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        calls.append(inputs["input_ids"].shape)
        if inputs["input_ids"].size > room:
            raise OutOfMemory
        return compute(self, inputs)

    monkeypatch.setattr(MockEngine, "run", run)
    monkeypatch.setattr(MockEngine, "device", "cuda:0")
    return calls


@pytest.mark.parametrize("kind", ["rank", "embed"])
@pytest.mark.parametrize(
    ("tokens", "rows"),
    # The budget of target cpu-fp32 is 1024 tokens.
    [(8192, 1), (512, 2), (100, 10), (16, 64)],
)
def test_the_largest_call_comes_first(
    monkeypatch: pytest.MonkeyPatch, kind: Kind, tokens: int, rows: int
) -> None:
    calls = on_gpu(monkeypatch)
    model = mock_model(kind, max_tokens=tokens)
    budget = model.info.token_budget
    model.warm_up()
    model.close()
    assert calls[0] == (max(1, min(64, budget // tokens)), tokens)
    assert calls[0][0] == rows
    assert all(np.prod(call) <= np.prod(calls[0]) for call in calls)


def test_batches_are_cut_to_what_fits_before_anybody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = on_gpu(monkeypatch, room=300)
    model = mock_model("rank", max_tokens=100)
    assert isinstance(model, Ranker)
    model.warm_up()
    refused = [call for call in calls if np.prod(call) > 300]
    assert refused
    model.rank("q", ["x" * (i + 1) for i in range(30)])
    model.close()
    assert [call for call in calls if np.prod(call) > 300] == refused


def test_a_longest_row_without_memory_is_told_and_the_others_are_served(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_gpu(monkeypatch, room=300)
    model = mock_model("rank", max_tokens=400)
    assert isinstance(model, Ranker)
    model.warm_up()
    assert "no memory for one row of 400 tokens" in caplog.text
    assert len(model.rank("q", ["short"]).logits) == 1
    with pytest.raises(OutOfMemory):
        model.rank("q", ["x" * 350])
    model.close()


def test_a_lost_device_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise DeviceLost

    monkeypatch.setattr(MockEngine, "run", lost)
    monkeypatch.setattr(MockEngine, "device", "cuda:0")
    model = mock_model("rank")
    with pytest.raises(DeviceLost):
        model.warm_up()
    model.close()


def test_the_cpu_makes_no_large_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = on_gpu(monkeypatch)
    monkeypatch.setattr(MockEngine, "device", "cpu")
    model = mock_model("rank")
    model.warm_up()
    model.close()
    assert max(np.prod(call) for call in calls) < 200
