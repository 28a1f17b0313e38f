"""GPU memory and streams through the CUDA runtime library, as far as a TensorRT plan needs them.

A dozen ctypes calls. TensorRT and ONNX Runtime ship libcudart anyway; cuda-python would add
bindings that must match the toolkit, and PyTorch a gigabyte. Signatures:
docs.nvidia.com/cuda/cuda-runtime-api.
"""

import ctypes
import importlib.metadata
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import EngineUnavailable

_LIBRARIES = ("libcudart.so.13", "libcudart.so.12")
_TO_DEVICE, _TO_HOST = 1, 2
_NO_BLOCKING = 1


class CudaFailed(Exception):
    """A call returned `code`, a cudaError_t."""

    def __init__(self, call: str, code: int, text: str) -> None:
        self.code = code
        super().__init__(f"{call}: CUDA error {code}: {text}")


class Cuda:
    """The CUDA runtime calls; each raises CudaFailed. Addresses are plain integers; 0 is none."""

    def __init__(self, library: Any) -> None:
        self._library = library
        library.cudaGetErrorString.restype = ctypes.c_char_p

    def allocate(self, size_bytes: int) -> int:
        """Allocate device memory and return its address."""
        return self._address("cudaMalloc", ctypes.c_size_t(size_bytes))

    def free(self, address: int) -> None:
        """Free device memory; 0 is ignored."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def allocate_pinned(self, size_bytes: int) -> int:
        """Allocate page-locked host memory, which the device can read, and return its address."""
        return self._address("cudaMallocHost", ctypes.c_size_t(size_bytes))

    def free_pinned(self, address: int) -> None:
        """Free page-locked host memory; 0 is ignored."""
        self._call("cudaFreeHost", ctypes.c_void_p(address))

    def create_stream(self) -> int:
        """Create a stream that does not wait for the default stream."""
        return self._address("cudaStreamCreateWithFlags", ctypes.c_uint(_NO_BLOCKING))

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def to_device(self, device: int, host: int, size_bytes: int, stream: int) -> None:
        """Copy pinned host memory to the device, on `stream`."""
        self._copy(device, host, size_bytes, _TO_DEVICE, stream)

    def to_host(self, host: int, device: int, size_bytes: int, stream: int) -> None:
        """Copy device memory to pinned host memory, on `stream`."""
        self._copy(host, device, size_bytes, _TO_HOST, stream)

    def wait(self, stream: int) -> None:
        """Wait until all work on `stream` is done. Errors of kernels are raised here."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def _copy(self, to: int, source: int, size_bytes: int, kind: int, stream: int) -> None:
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(to),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size_bytes),
            ctypes.c_int(kind),
            ctypes.c_void_p(stream),
        )

    def _address(self, call: str, argument: object) -> int:
        found = ctypes.c_void_p()
        self._call(call, ctypes.byref(found), argument)
        return found.value or 0

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            text = self._library.cudaGetErrorString(code)
            # Reset the last error: one that is not sticky would stay until it is read.
            self._library.cudaGetLastError()
            raise CudaFailed(name, code, text.decode(errors="replace") if text else "unknown")


def host_array(
    address: int, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> npt.NDArray[np.generic]:
    """The host memory at `address` as an array; the memory must outlive the array."""
    memory = (ctypes.c_char * (int(np.prod(shape)) * dtype.itemsize)).from_address(address)
    return np.frombuffer(memoryview(memory), dtype).reshape(shape)


def open_cuda() -> Cuda:
    """Load the CUDA runtime of this machine. Raises EngineUnavailable."""
    for name in (*_LIBRARIES, *_from_packages()):
        try:
            return Cuda(ctypes.CDLL(name))
        except OSError:
            continue
    raise EngineUnavailable(
        f"found none of {', '.join(_LIBRARIES)}, wanted the CUDA runtime; install CUDA 13 or the "
        "package nvidia-cuda-runtime"
    )


def _from_packages() -> Iterator[str]:
    """Paths of the library in NVIDIA's Python packages, which are not on the library path."""
    for package in ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"):
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        yield from (str(f.locate()) for f in files if f.name.startswith("libcudart.so"))
