"""The NVIDIA GPU that this process sees, from the driver alone: no CUDA toolkit, no PyTorch.

Uses the CUDA driver API (docs.nvidia.com/cuda/cuda-driver-api). Its library comes with the driver,
in containers too. CUDA_VISIBLE_DEVICES is respected.
"""

import ctypes
import platform
from dataclasses import dataclass
from pathlib import Path

_LIBRARY = "libcuda.so.1"
_NAME_BYTES = 256
# CUdevice_attribute
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_DRIVER_VERSION = Path("/sys/module/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """The first visible GPU: `compute_capability` like "9.0", `cpu_architecture` of the machine
    like "x86_64", `driver` like "580.65.06" ("unknown" where the kernel does not say)."""

    name: str
    compute_capability: str
    cpu_architecture: str
    driver: str


def find_gpu() -> Gpu | None:
    """The first visible GPU; None where there is no driver or no device."""
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    count, device = ctypes.c_int(0), ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        return None
    if driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    name = ctypes.create_string_buffer(_NAME_BYTES)
    driver.cuDeviceGetName(name, _NAME_BYTES, device)
    capability = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        number = ctypes.c_int(0)
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        capability.append(str(number.value))
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=".".join(capability),
        cpu_architecture=platform.machine(),
        driver=_driver_version(),
    )


def _driver_version() -> str:
    try:
        return _DRIVER_VERSION.read_text().strip()
    except OSError:
        return "unknown"
