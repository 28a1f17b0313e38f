"""`make test-gpu`: run the checks that need a GPU, and print one table.

Needs PyTorch with CUDA, onnx, onnxscript and numpy; checks that need ONNX Runtime or TensorRT say
so when it is missing. Exit codes: 0 nothing failed, 1 a check failed or there is no GPU.
"""

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from checks.gpu.bundled import NO_GPU, lacking, use_bundled, versions
from runtime.telemetry import disable_telemetry

_WIDTHS = (26, 9, 8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and print the table."""
    disable_telemetry()
    args = _parser().parse_args(arguments)
    bundled = use_bundled()
    if (lacks := lacking("torch", "onnx", "onnxscript", "numpy")) is not None:
        print(lacks)
        return 1
    # After bundled packages, which must come first on the path.
    import torch

    from checks.gpu.cases import CHECKS, Machine, NotApplicable
    from checks.gpu.models import CONFIGS

    if args.model not in CONFIGS:
        raise SystemExit(f"found model {args.model!r}, wanted one of {', '.join(CONFIGS)}")
    if unknown := sorted({*args.only} - {one.__name__ for one in CHECKS}):
        raise SystemExit(
            f"found {', '.join(unknown)}, wanted {', '.join(one.__name__ for one in CHECKS)}"
        )
    if args.device == "cuda" and not torch.cuda.is_available():
        print(NO_GPU)
        return 1
    print(_versions(bundled), flush=True)
    chosen = [one for one in CHECKS if one.__name__ in args.only or not args.only]
    states = []
    with tempfile.TemporaryDirectory() as work:
        machine = Machine(args.device, args.model, Path(work))
        for check in chosen:
            began = time.monotonic()
            try:
                state, line = "passed", check(machine)
            except NotApplicable as reason:
                state, line = "not here", str(reason)
            except Exception as error:
                # Any error is this check's result; the other checks run.
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
    parser.add_argument(
        "--model", default="tiny", help="tiny, 1b, qwen3-tiny or qwen3-0.6b (%(default)s)"
    )
    parser.add_argument("--only", nargs="*", default=[], metavar="CHECK", help="some of them")
    return parser


def _versions(bundled: Sequence[str]) -> str:
    found = versions(("torch", "onnx", "onnxscript", "onnxruntime-gpu", "tensorrt"))
    facts = [f"{name} {version}" if version else f"no {name}" for name, version in found.items()]
    facts = [f"Python {platform.python_version()}", *facts]
    return ", ".join(facts) + (f"; bundled: {', '.join(bundled)}" if bundled else "")


if __name__ == "__main__":
    sys.exit(main())
