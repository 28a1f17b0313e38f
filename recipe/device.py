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


def device_name() -> str:
    """The device in words."""
    gpu = find_gpu()
    if gpu is None:
        return "the CPU (no GPU is visible)"
    if find_device() == "cpu":
        return f"the CPU (PyTorch is built without CUDA, or does not see the GPU {gpu.name})"
    return f"the GPU {gpu.name}"


def embedder_target() -> str:
    """The target that an embedder is exported for, where none was asked for."""
    if find_device() == "cpu":
        return _CPU_TARGET
    ort = import_without_telemetry("onnxruntime")
    return _GPU_TARGET if _PROVIDER in ort.get_available_providers() else _CPU_TARGET
