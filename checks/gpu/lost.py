"""Break the GPU's context: python -m checks.gpu.lost DIRECTORY breaks it, calls an engine, and
prints the error's name. Runs in its own process, which is unusable afterwards."""

import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from checks.gpu.bundled import use_bundled


def break_context() -> None:
    """Make a kernel fail in a way that no later call of this process survives."""
    # Imported here: a server that is to be broken must not need it earlier.
    import torch

    with suppress(RuntimeError):
        # An index beyond its table: an assertion in the kernel.
        torch.zeros(1, device="cuda")[torch.tensor([10], device="cuda")].sum().item()


def break_when(file: Path) -> None:
    """Start a thread that calls `break_context` once `file` exists, and then removes it."""

    def wait() -> None:
        while not file.exists():
            time.sleep(0.05)
        break_context()
        file.unlink()

    threading.Thread(target=wait, daemon=True).start()


def _main(directory: Path) -> None:
    use_bundled()
    from checks.gpu.models import padded_inputs
    from runtime.engines import EngineSetup, open_engine

    engine = open_engine("onnxruntime-cuda", directory, EngineSetup(precision="fp16"))
    inputs = padded_inputs([[1, 2, 3]])
    engine.run(inputs)
    break_context()
    try:
        engine.run(inputs)
        print("no error")
    except Exception as error:
        print(type(error).__name__)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
    sys.stdout.flush()
