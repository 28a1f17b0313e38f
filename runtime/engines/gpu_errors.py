"""Classify GPU errors by their text: out of memory, a lost device, or another engine error.

ONNX Runtime and TensorRT raise plain exceptions with a cudaError_t in the text
(docs.nvidia.com/cuda/cuda-runtime-api). Some of these codes leave the context unusable ("sticky").
"""

import logging
import re

from runtime.engines.cudart import CudaFailed, open_cuda
from runtime.engines.gpu_use import GPU_USE
from runtime.errors import (
    DeviceLost,
    EngineError,
    EngineUnavailable,
    OutOfMemory,
    ServingError,
)

_log = logging.getLogger(__name__)

_OUT_OF_MEMORY = re.compile(
    # The messages of CUDA, cuBLAS and cuDNN, of ONNX Runtime's arena and of TensorRT's allocator.
    r"CUDA (failure|error) 2\b|out of memory|OutOfMemory|ALLOC_FAILED"
    r"|Failed to allocate memory|Available memory of \d+ is smaller than requested",
    re.IGNORECASE,
)
# After these every later CUDA call of the process fails.
# ECC error, invalid context, illegal address, timeout, assert, hardware stack, illegal instruction,
# misaligned address, invalid address space, invalid program counter, launch failure, lost device.
_STICKY = (214, 201, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999)
_DEFAULT_STREAM = 0
_CODE = re.compile(r"\b(?:CUDA|Cuda)[^\d\n]{0,40}?(\d{1,3})\b")
_STICKY_WORDS = re.compile(
    r"illegal memory access|unspecified launch failure|device-side assert|misaligned address"
    r"|illegal instruction|uncorrectable ECC|launch timed out|cudaErrorIllegalAddress"
    r"|cudaErrorLaunchFailure|cudaErrorAssert|fallen off the bus",
    re.IGNORECASE,
)
# What cuBLAS and cuDNN say when an earlier kernel has failed, without saying how: EXECUTION_FAILED
# and INTERNAL_ERROR of cuBLAS, and of cuDNN (5000 on).
_UNSAID = re.compile(
    r"CUBLAS failure 1[34]\b|CUDNN failure 5\d{3}\b"
    r"|CU(BLAS|DNN)_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)"
)


def classify_gpu_error(engine: str, error: Exception | str, action: str = "failed") -> ServingError:
    """Classify an error of `engine` as OutOfMemory, DeviceLost or EngineError.

    `action` is what failed, for the message. Clients may read OutOfMemory and DeviceLost, so their
    details are only logged.
    """
    text = str(error)
    sticky = _STICKY_WORDS.search(text) or any(int(n) in _STICKY for n in _CODE.findall(text))
    if sticky or (_UNSAID.search(text) and _is_lost()):
        _log.error("%s lost the GPU: %s", engine, text)
        return DeviceLost()
    if _OUT_OF_MEMORY.search(text):
        _log.warning("%s %s, out of memory: %s", engine, action, text)
        return OutOfMemory()
    return EngineError(f"{engine} {action}: {text}")


def _is_lost() -> bool:
    """Whether the device of this process has failed for good: any call then returns the error."""
    try:
        cuda = open_cuda()
        with GPU_USE.shared():  # waiting for the GPU would end another thread's capture
            cuda.wait(_DEFAULT_STREAM)
    except CudaFailed as error:
        return error.code in _STICKY
    except EngineUnavailable:
        return False
    return False
