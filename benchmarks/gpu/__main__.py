"""`make bench-gpu`: 1 query × 1 to 100 passages on the GPU, ours and PyTorch, as table and JSON.

Needs PyTorch with CUDA, transformers, onnx, onnxscript, numpy and tokenizers. Exit codes: 0
something was measured, 1 nothing was, or a package or the GPU is missing.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from checks.gpu.bundled import NO_GPU, lacking, use_bundled
from runtime.outputs import exit_on_refusal
from runtime.telemetry import disable_telemetry

RESULTS = Path(__file__).parents[1] / "results" / "gpu"
_PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "numpy", "tokenizers")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 1 when nothing could be measured."""
    disable_telemetry()
    args = _parser().parse_args(arguments)
    use_bundled()
    if (lacks := lacking(*_PACKAGES)) is not None:
        sys.stdout.write(f"{lacks}\n")
        return 1
    # After bundled packages, which must come first on the path.
    import torch

    from benchmarks.gpu.bench import measure
    from checks.gpu.models import CONFIGS

    if args.model not in CONFIGS:
        raise SystemExit(f"found model {args.model!r}, wanted one of {', '.join(CONFIGS)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.stdout.write(f"{NO_GPU}\n")
        return 1
    return measure(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--model", default="tiny", help="tiny, 1b, qwen3-tiny or qwen3-0.6b (%(default)s)"
    )
    much = parser.add_mutually_exclusive_group()
    much.add_argument("--quick", action="store_true", help="only check that it works")
    much.add_argument("--full", action="store_true", help="every budget, TensorRT, two turns")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder to write to")
    return parser


if __name__ == "__main__":
    with exit_on_refusal():
        sys.exit(main())
