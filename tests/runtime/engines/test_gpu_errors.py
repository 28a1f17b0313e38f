"""What the texts of failed calls mean."""

import pytest

from runtime.engines import gpu_errors
from runtime.engines.cudart import CudaFailed
from runtime.engines.gpu_errors import classify_gpu_error
from runtime.errors import DeviceLost, EngineError, OutOfMemory, ServingError


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=x ; file=y ; line=1", OutOfMemory),
        (
            "BFCArena::AllocateRawInternal Available memory of 1024 is smaller than requested",
            OutOfMemory,
        ),
        ("Failed to allocate memory for requested buffer of size 8589934592", OutOfMemory),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", OutOfMemory),
        ("cudaMalloc: CUDA error 2: out of memory", OutOfMemory),
        ("Requested amount of GPU memory could not be allocated: OutOfMemory", OutOfMemory),
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", DeviceLost),
        ("CUDA error 719: unspecified launch failure", DeviceLost),
        ("cudaStreamSynchronize: CUDA error 709: unknown", DeviceLost),
        ("Cuda Runtime (an illegal memory access was encountered)", DeviceLost),
        ("CUDA failure 214: uncorrectable ECC error encountered", DeviceLost),
        ("CUDA failure 98: invalid device function", EngineError),
        ("Non-zero status code returned while running MatMul node", EngineError),
        (
            "Got invalid dimensions for input: input_ids index: 1 Got: 700 Expected: 512",
            EngineError,
        ),
    ],
)
def test_a_failure_is_understood(text: str, kind: type[ServingError]) -> None:
    found = classify_gpu_error("onnxruntime-cuda", RuntimeError(text))
    assert type(found) is kind


def test_callers_read_nothing_of_the_inside() -> None:
    for text in ("CUDA failure 2: out of memory ; hostname=x", "CUDA failure 700 ; hostname=x"):
        assert "hostname" not in str(classify_gpu_error("onnxruntime-cuda", text))


class Device:
    """The CUDA runtime of a device in which an earlier kernel has failed with `code`; 0: none."""

    def __init__(self, code: int) -> None:
        self.code = code

    def wait(self, stream: int) -> None:
        if self.code:
            raise CudaFailed("cudaStreamSynchronize", self.code, "failed")


@pytest.mark.parametrize(("code", "kind"), [(0, EngineError), (2, EngineError), (700, DeviceLost)])
@pytest.mark.parametrize(
    "text",
    [
        "CUBLAS failure 13: the GPU program failed to execute ; GPU=0 ; hostname=x",
        "CUBLAS failure 14: an internal operation failed ; GPU=0",
        "cuDNN failed: CUDNN_STATUS_EXECUTION_FAILED",
    ],
)
def test_an_earlier_fault_that_cublas_is_the_first_to_see_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, text: str, code: int, kind: type[ServingError]
) -> None:
    monkeypatch.setattr(gpu_errors, "open_cuda", lambda: Device(code))
    assert type(classify_gpu_error("onnxruntime-cuda", text)) is kind


def test_without_the_cuda_runtime_it_stays_an_error_of_the_engine() -> None:
    found = classify_gpu_error("onnxruntime-cuda", "CUBLAS failure 13: failed to execute")
    assert type(found) is EngineError
