"""`make test-gpu`: run what only a GPU can show, and print one table.

Needs PyTorch with CUDA, onnx, onnxscript and numpy; what ONNX Runtime and TensorRT have to be there
for is named where they are not. Exit codes: 0 nothing failed, 1 something did or no GPU is here.
"""

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from checks.gpu.brought import use_brought
from runtime.telemetry import disable_telemetry

_WIDTHS = (26, 9, 8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and print the table."""
    disable_telemetry()
    wish = _parser().parse_args(arguments)
    brought = use_brought()
    # After what was brought along may have to go first.
    import torch

    from checks.gpu.cases import CHECKS, Machine, NotHere
    from checks.gpu.models import CONFIGS

    if wish.model not in CONFIGS:
        raise SystemExit(f"found model {wish.model!r}, wanted one of {', '.join(CONFIGS)}")
    if wish.device == "cuda" and not torch.cuda.is_available():
        print("no GPU found: PyTorch sees no CUDA device; wanted one NVIDIA GPU with its driver")
        return 1
    print(_versions(brought), flush=True)
    chosen = [one for one in CHECKS if one.__name__ in wish.only or not wish.only]
    states = []
    with tempfile.TemporaryDirectory() as work:
        machine = Machine(wish.device, wish.model, Path(work))
        for check in chosen:
            began = time.monotonic()
            try:
                state, line = "passed", check(machine)
            except NotHere as reason:
                state, line = "not here", str(reason)
            except Exception as error:
                # Whatever goes wrong is this check's result; the others go on.
                state, line = "FAILED", f"{type(error).__name__}: {error}"
            states.append(state)
            cells = (check.__name__, state, f"{time.monotonic() - began:.1f} s")
            head = "".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True))
            print(head + " ".join(line.split()), flush=True)
    counts = {state: states.count(state) for state in ("passed", "FAILED", "not here")}
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    return 1 if counts["FAILED"] or not counts["passed"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m checks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", default="1b", help="tiny or 1b (%(default)s)")
    parser.add_argument("--only", nargs="*", default=[], metavar="CHECK", help="some of them")
    return parser


def _versions(brought: Sequence[str]) -> str:
    from importlib.metadata import PackageNotFoundError, version

    def known(package: str) -> str:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            return f"no {package}"

    packages = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "tensorrt")
    facts = [f"Python {platform.python_version()}", *map(known, packages)]
    return ", ".join(facts) + (f"; brought along: {', '.join(brought)}" if brought else "")


if __name__ == "__main__":
    sys.exit(main())
