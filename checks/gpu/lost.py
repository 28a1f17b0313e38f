"""Break the GPU's context and ask an engine: python -m checks.gpu.lost DIRECTORY prints the name of
the error. In a process of its own, which is of no use afterwards."""

import sys
from contextlib import suppress
from pathlib import Path

import torch

from checks.gpu.brought import use_brought
from checks.gpu.models import laid_out
from runtime.engines import EngineSetup, open_engine


def _main(directory: Path) -> None:
    use_brought()
    engine = open_engine("onnxruntime-cuda", directory, EngineSetup(precision="fp16"))
    inputs = laid_out([[1, 2, 3]])
    engine.run(inputs)
    with suppress(RuntimeError):
        # An index beyond its table: an assertion in a kernel, which no later call survives.
        torch.zeros(1, device="cuda")[torch.tensor([10], device="cuda")].sum().item()
    try:
        engine.run(inputs)
        print("no error")
    except Exception as error:
        print(type(error).__name__)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
    sys.stdout.flush()
