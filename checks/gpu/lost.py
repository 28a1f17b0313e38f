"""Break the GPU's context: python -m checks.gpu.lost DIRECTORY does, asks an engine, and prints the
name of the error. In a process of its own, which is of no use afterwards."""

import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from checks.gpu.brought import use_brought


def break_context() -> None:
    """Let a kernel fail in a way that no later call of this process survives."""
    # Only here: a server that is to be broken does not need it before.
    import torch

    with suppress(RuntimeError):
        # An index beyond its table: an assertion in the kernel.
        torch.zeros(1, device="cuda")[torch.tensor([10], device="cuda")].sum().item()


def break_when(file: Path) -> None:
    """Have a thread call `break_context` as soon as `file` is there, and remove it after that."""

    def wait() -> None:
        while not file.exists():
            time.sleep(0.05)
        break_context()
        file.unlink()

    threading.Thread(target=wait, daemon=True).start()


def _main(directory: Path) -> None:
    use_brought()
    from checks.gpu.models import laid_out
    from runtime.engines import EngineSetup, open_engine

    engine = open_engine("onnxruntime-cuda", directory, EngineSetup(precision="fp16"))
    inputs = laid_out([[1, 2, 3]])
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
