"""Hardware metrics: processors and memory from /proc, GPUs from NVIDIA's NVML."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_MILLI = 1e-3
_PERCENT = 1e-2


@dataclass(frozen=True)
class Gpu:
    """The state of one GPU. `facts`: watts, joules since the driver was loaded, bytes, and
    `utilization` from 0 to 1, without those that the card does not report."""

    device_id: str
    gpu_uuid: str
    facts: Mapping[str, float]


# Facts of a GPU: NVML's query, the attribute of its answer if that is not a number, and the scale.
_FACTS = {
    "power_usage_watts": ("nvmlDeviceGetPowerUsage", "", _MILLI),
    "power_limit_watts": ("nvmlDeviceGetEnforcedPowerLimit", "", _MILLI),
    "total_energy_joules": ("nvmlDeviceGetTotalEnergyConsumption", "", _MILLI),
    "utilization": ("nvmlDeviceGetUtilizationRates", "gpu", _PERCENT),
    "memory_total_bytes": ("nvmlDeviceGetMemoryInfo", "total", 1.0),
    "memory_used_bytes": ("nvmlDeviceGetMemoryInfo", "used", 1.0),
}


class Processors:
    """The utilization of the processors between two calls."""

    def __init__(self) -> None:
        self._before = _ticks()

    def utilization(self) -> float | None:
        """Their share of busy time since the last call, from 0 to 1; None without /proc."""
        now, before = _ticks(), self._before
        self._before = now
        if now is None or before is None or now[1] <= before[1]:
            return None
        return 1.0 - (now[0] - before[0]) / (now[1] - before[1])


def memory_bytes() -> tuple[float, float] | None:
    """Total and used memory in bytes; None without /proc."""
    try:
        lines = (_PROC / "meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = {line.partition(":")[0]: line.split()[1] for line in lines if len(line.split()) > 1}
    total, free = (int(sizes.get(name, 0)) * 1024.0 for name in ("MemTotal", "MemAvailable"))
    return total, total - free


class Gpus:
    """The GPUs of this machine; none without NVML."""

    def __init__(self) -> None:
        self._nvml = _open_nvml()

    def read(self) -> list[Gpu]:
        """The state of every GPU; a lost one is left out."""
        if self._nvml is None:
            return []
        found: list[Gpu] = []
        with _unsupported(self._nvml):
            for index in range(self._nvml.nvmlDeviceGetCount()):
                with _unsupported(self._nvml):
                    found.append(_gpu(self._nvml, str(index)))
        return found


def _open_nvml() -> Any:
    """Load and initialise NVML; None if it or the driver is missing."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # the package, the driver or the card is missing
        return None
    return nvml


def _gpu(nvml: Any, device_id: str) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(int(device_id))

    facts = {}
    for name, (query, attribute, scale) in _FACTS.items():
        with _unsupported(nvml):
            found = getattr(nvml, query)(handle)
            facts[name] = float(getattr(found, attribute) if attribute else found) * scale
    return Gpu(device_id, str(nvml.nvmlDeviceGetUUID(handle)), facts)


@contextmanager
def _unsupported(nvml: Any) -> Iterator[None]:
    """Ignore NVML errors: not every card supports every query."""
    try:
        yield
    except nvml.NVMLError:
        return


def _ticks() -> tuple[float, float] | None:
    """Idle and total clock ticks of all processors since boot."""
    try:
        fields = (_PROC / "stat").read_text().splitlines()[0].split()[1:9]
    except (OSError, IndexError):
        return None
    ticks = [float(field) for field in fields]
    return ticks[3] + ticks[4], sum(ticks)
