"""What native libraries read from the environment: set once, before they are loaded.

Changing the environment later, beside threads that read it, is not safe in C. Standard library
only, so that it can come first.
"""

import os

from runtime.telemetry import disable_telemetry

_SETTINGS = {
    # TensorFloat-32 would round what a graph keeps in float32 (runtime.engines.ort).
    "NVIDIA_TF32_OVERRIDE": "0",
    # One norm a vector is all the algebra that NumPy does here; each thread takes memory.
    "OPENBLAS_NUM_THREADS": "1",
}
# Lines that are neither ours nor JSON. What fails is told by the exception that comes of it.
_SILENCE = {"GRPC_VERBOSITY": "NONE"}


def prepare_libraries() -> None:
    """Turn reporting off, keep float32 whole, start no threads for algebra, and leave stderr to
    logging; a GRPC_VERBOSITY that is set stays."""
    disable_telemetry()
    os.environ.update(_SETTINGS)
    for name, value in _SILENCE.items():
        os.environ.setdefault(name, value)
