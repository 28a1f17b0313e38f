"""What the driver says of the GPU; a stand-in answers where there is none."""

import ctypes
import platform
from typing import Any

import pytest

from runtime import gpu


class Driver:
    """The calls of libcuda that are used, for one device of compute capability 9.0."""

    def __init__(self, devices: int = 1, status: int = 0) -> None:
        self.devices, self.status = devices, status

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.devices
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        device._obj.value = ordinal
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:  # noqa: N802
        name.value = b"NVIDIA H100 80GB HBM3"
        return 0

    def cuDeviceGetAttribute(self, number: Any, attribute: int, device: Any) -> int:  # noqa: N802
        number._obj.value = {75: 9, 76: 0}[attribute]
        return 0


def with_driver(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)


def test_the_first_device_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    with_driver(monkeypatch, Driver())
    found = gpu.find_gpu()
    assert found is not None
    assert (found.name, found.compute_capability) == ("NVIDIA H100 80GB HBM3", "9.0")
    assert found.cpu_architecture == platform.machine()
    assert found.driver


@pytest.mark.parametrize("driver", [Driver(devices=0), Driver(status=100)])
def test_a_driver_without_a_device_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, driver: Driver
) -> None:
    with_driver(monkeypatch, driver)
    assert gpu.find_gpu() is None


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_LIBRARY", "libcuda-of-another-world.so.1")
    assert gpu.find_gpu() is None
