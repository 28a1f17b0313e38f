"""What the texts of failed calls mean."""

import pytest

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
