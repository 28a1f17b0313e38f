"""Environment variables of native libraries, set once before the libraries are loaded.

In C it is not safe to change the environment while other threads read it. Standard library only, so
that this can run first.
"""

import os

from runtime.telemetry import disable_telemetry

_SETTINGS = {
    # TensorFloat-32 would round a graph's float32 parts (runtime.engines.ort).
    "NVIDIA_TF32_OVERRIDE": "0",
    # NumPy only computes norms of vectors here, and each BLAS thread takes memory.
    "OPENBLAS_NUM_THREADS": "1",
}


def prepare_libraries() -> None:
    """Turn telemetry and TensorFloat-32 off, limit BLAS to one thread, and silence gRPC's stderr. A
    GRPC_VERBOSITY that is set is kept."""
    disable_telemetry()
    os.environ.update(_SETTINGS)
    # gRPC's own log lines are not JSON; failures raise exceptions anyway.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
