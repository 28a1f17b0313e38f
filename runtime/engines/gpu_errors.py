"""What a failed call on a GPU means, from the text of its error.

ONNX Runtime and TensorRT raise plain exceptions; the numbers in them are those of cudaError_t
(docs.nvidia.com/cuda/cuda-runtime-api), where some leave the context unusable ("sticky").
"""

import logging
import re

from runtime.errors import DeviceLost, EngineError, OutOfMemory, ServingError

_log = logging.getLogger(__name__)

_OUT_OF_MEMORY = re.compile(
    # CUDA's own code; cuBLAS' and cuDNN's; ONNX Runtime's arena; TensorRT's allocator.
    r"CUDA (failure|error) 2\b|out of memory|OutOfMemory|ALLOC_FAILED"
    r"|Failed to allocate memory|Available memory of \d+ is smaller than requested",
    re.IGNORECASE,
)
# ECC error, invalid context, illegal address, timeout, assert, hardware stack, illegal instruction,
# misaligned address, invalid address space, invalid program counter, launch failure, lost device.
_STICKY = (214, 201, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999)
_CODE = re.compile(r"\b(?:CUDA|Cuda)[^\d\n]{0,40}?(\d{1,3})\b")
_STICKY_WORDS = re.compile(
    r"illegal memory access|unspecified launch failure|device-side assert|misaligned address"
    r"|illegal instruction|uncorrectable ECC|launch timed out|cudaErrorIllegalAddress"
    r"|cudaErrorLaunchFailure|cudaErrorAssert|fallen off the bus",
    re.IGNORECASE,
)


def is_sticky(code: int) -> bool:
    """Whether a cudaError_t leaves every later call of the process failing as well."""
    return code in _STICKY


def classify_gpu_error(engine: str, error: Exception | str, action: str = "failed") -> ServingError:
    """The runtime's own error for what `engine` raised or logged while it computed or opened;
    `what` says which.

    Callers of the server may read OutOfMemory and DeviceLost: the particulars go to the log.
    """
    text = str(error)
    if _STICKY_WORDS.search(text) or any(is_sticky(int(n)) for n in _CODE.findall(text)):
        _log.error("%s lost the GPU: %s", engine, text)
        return DeviceLost()
    if _OUT_OF_MEMORY.search(text):
        _log.warning("%s %s for want of memory: %s", engine, action, text)
        return OutOfMemory()
    return EngineError(f"{engine} {action}: {text}")
