"""Figures of the machine, of GPUs through NVIDIA's library as far as there is none here."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.hardware import Gpus, Processors, memory_bytes
from server.metrics import GPU_METRICS, Metrics


class NoAnswer(Exception):
    """As NVMLError: this card does not tell."""


def library(**changed: Any) -> Any:
    """The part of NVIDIA's library that is asked, with a card of 80 GB behind it."""

    def refuse(handle: object) -> float:
        raise NoAnswer

    calls: dict[str, Any] = {
        "NVMLError": NoAnswer,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda _: "GPU-1",
        "nvmlDeviceGetPowerUsage": lambda _: 350_000,
        "nvmlDeviceGetEnforcedPowerLimit": lambda _: 700_000,
        "nvmlDeviceGetTotalEnergyConsumption": refuse,
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=75),
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=80e9, used=5e9),
    }
    return SimpleNamespace(**{**calls, **changed})


def test_processors_and_memory() -> None:
    processors = Processors()
    sum(range(1_000_000))
    busy = processors.utilization()
    assert busy is None or 0.0 <= busy <= 1.0
    found = memory_bytes()
    assert found is not None
    total, used = found
    assert 0 < used < total


def test_gpus_have_nims_names_and_tritons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library())
    page = Metrics(list).render().decode()
    found = {s.name: s for f in text_string_to_metric_families(page) for s in f.samples}
    values = {"gpu_power_usage_watts": 350, "gpu_utilization": 0.75, "gpu_memory_used_bytes": 5e9}
    triton = {nim: name for nim, name, _ in GPU_METRICS}
    for nim, value in values.items():
        assert found[nim].value == pytest.approx(value)
        assert found[nim].labels == {"device_id": "0"}
        assert found[triton[nim]].value == pytest.approx(value)
        assert found[triton[nim]].labels == {"gpu_uuid": "GPU-1"}
    assert "nv_energy_consumption" not in found  # the card does not tell


def test_a_machine_without_a_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise NoAnswer

    monkeypatch.setitem(sys.modules, "pynvml", library(nvmlInit=no_driver))
    assert Gpus().read() == []


@pytest.mark.parametrize("question", ["nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"])
def test_a_card_that_was_lost_does_not_break_the_page(
    monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    def lost(*_: object) -> int:
        raise NoAnswer

    monkeypatch.setitem(sys.modules, "pynvml", library(**{question: lost}))
    assert Gpus().read() == []
    assert "request_count" in Metrics(list).render().decode()
