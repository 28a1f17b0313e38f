"""When a CUDA graph may be captured: while no other thread of this process uses the GPU.

ONNX Runtime captures in CUDA's global mode (onnxruntime/core/providers/cuda/cuda_graph.cc). Until
such a capture ends, calls of other threads that take memory or copy and wait are refused, and the
capture fails with them (cudaThreadExchangeStreamCaptureMode in CUDA's runtime API). Other threads
are those of a second model, of a vision tower, and of a reload.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class GpuUse:
    """Who uses the GPU in this process: any number of threads, or one that captures."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._capturing = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Use the GPU for the block; waits while a graph is captured, a few small calls long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._capturing)
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether the block has the GPU to itself, for a capture. It does not wait for that: others
        may take seconds, as when they open a model."""
        with self._changed:
            is_alone = not self._users and not self._capturing
            self._capturing = self._capturing or is_alone
        try:
            yield is_alone
        finally:
            if is_alone:
                with self._changed:
                    self._capturing = False
                    self._changed.notify_all()


GPU_USE = GpuUse()
