"""A reload where the GPU has no room for two models: the one that stays gets all of it."""

from collections.abc import Mapping

import numpy as np
import pytest

from runtime.engines.mock import MockEngine
from runtime.errors import OutOfMemory
from runtime.requests import RankRequest
from server import loading, reloading
from server.loading import load
from server.reloading import reload_model
from server.service import Service
from server.settings import read_settings
from tests.waiting import retiring, wait_until

# Tokens of the largest call beside which nothing else is open.
ROOM = 1024
SETTINGS = {"ENABLE_MOCK_INFERENCE": "1", "NIM_TRITON_MAX_SEQ_LENGTH": "256"}
compute = MockEngine.run


class Gpu:
    """Its memory is shared by the engines that are open, which keep what they have taken."""

    def __init__(self) -> None:
        self.taken: dict[MockEngine, int] = {}
        self.calls: list[int] = []

    def run(self, engine: MockEngine, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        wanted = inputs["input_ids"].size
        others = sum(taken for one, taken in self.taken.items() if one is not engine)
        # A little is always found, as the largest call leaves it.
        if wanted > max(ROOM - others, ROOM // 8):
            raise OutOfMemory
        self.taken[engine] = max(wanted, self.taken.get(engine, 0))
        self.calls.append(wanted)
        return compute(engine, inputs)

    def close(self, engine: MockEngine) -> None:
        self.taken.pop(engine, None)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    monkeypatch.setattr(MockEngine, "device", "cuda:0")
    monkeypatch.setattr(MockEngine, "run", lambda engine, inputs: gpu.run(engine, inputs))
    monkeypatch.setattr(MockEngine, "close", lambda engine: gpu.close(engine))
    monkeypatch.setattr(reloading, "_RETIRE_DELAY_S", 0.0)
    # One model: a second one would share the memory for good.
    monkeypatch.setattr(loading, "_directories", lambda _: [("rank", None)])
    return gpu


def largest_call(service: Service, gpu: Gpu) -> int:
    """The largest of a request whose rows would fill several calls."""
    gpu.calls.clear()
    service.ranker.rank(RankRequest("q", [f"{number:0100}" for number in range(40)]))
    return max(gpu.calls)


def test_a_reload_leaves_batches_as_large_as_they_were(gpu: Gpu) -> None:
    service = Service(read_settings(SETTINGS))
    load(service)
    whole = largest_call(service, gpu)
    assert whole > ROOM // 2
    reload_model(service, "rank")
    wait_until(lambda: not retiring())
    assert largest_call(service, gpu) == whole
    service.close()


def test_a_reload_that_fails_leaves_batches_as_large_as_they_were(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(read_settings(SETTINGS))
    load(service)
    whole = largest_call(service, gpu)
    served = service.ranker

    def fail(model: object) -> None:
        # The model that is served finds no memory beside the new one.
        other = MockEngine()
        gpu.taken = {other: ROOM}
        largest_call(service, gpu)
        gpu.close(other)
        raise OutOfMemory

    monkeypatch.setattr(type(served), "warm_up", fail)
    with pytest.raises(OutOfMemory):
        reload_model(service, "rank")
    assert service.ranker is served
    assert largest_call(service, gpu) == whole
    service.close()
