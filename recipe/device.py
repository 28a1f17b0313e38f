"""Where the first stage computes: on the GPU where PyTorch sees one, else on the CPU."""

from typing import Literal

from runtime.gpu import find_gpu
from runtime.telemetry import import_without_telemetry

Device = Literal["cuda", "cpu"]
_GPU_TARGET, _CPU_TARGET = "cuda-fp16", "cpu-fp32"
_PROVIDER = "CUDAExecutionProvider"


def find_device() -> Device:
    """PyTorch's name of the device."""
    if find_gpu() is None:  # PyTorch takes seconds to import
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def embedder_target() -> str:
    """The target that an embedder is exported for, where none was asked for."""
    return _GPU_TARGET if find_device() == "cuda" and _has_provider() else _CPU_TARGET


def device_line() -> str:
    """Where it computes, in words."""
    gpu = find_gpu()
    if gpu is None:
        return "on the CPU: no GPU is visible"
    if find_device() == "cpu":
        return f"on the CPU: PyTorch does not see the GPU {gpu.name}"
    if not _has_provider():
        return (
            f"on the GPU {gpu.name}, but embeds on the CPU: this ONNX Runtime has no {_PROVIDER} "
            "(install the extra serve-gpu in place of serve-cpu)"
        )
    return f"on the GPU {gpu.name}"


def _has_provider() -> bool:
    offered = import_without_telemetry("onnxruntime").get_available_providers()
    return _PROVIDER in offered
