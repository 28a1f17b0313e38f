"""The candidates in turns: what is measured, and its report.

All candidates get the same token ids and the same weights; each turn is a whole request, from rows
in the caller's memory to logits there.
"""

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from benchmarks.ceiling import gpu_ceilings
from benchmarks.folder import results_folder, save
from benchmarks.gpu.candidates import (
    Candidate,
    Score,
    failure_of,
    ours,
    pytorch,
    wanted_logits,
)
from benchmarks.gpu.loads import Load, make_loads
from benchmarks.models import flops, matrix_shapes
from benchmarks.progress import print_line
from benchmarks.tables import number, table
from checks.gpu.bundled import versions
from checks.gpu.models import CONFIGS, adapted, export
from checks.gpu.plans import build_plan
from runtime.errors import EngineUnavailable
from runtime.gpu import find_gpu
from runtime.profile import load_target_profile

_CEILING_ROWS = 64 * 512
_WARM_RUNS = 3
_HEAD = ("candidate", "pairs/s", "× best PyTorch", "p50 ms", "p99 ms", "of ceiling", "max |Δ|")


@dataclass
class Measured:
    """One candidate on one load: seconds of every request, and the distance of its logits from
    PyTorch's in float32. `failure` says why there are none."""

    candidate: str
    precision: str
    ours: bool
    load: str
    seconds: list[float] = field(default_factory=list)
    max_delta: float | None = None
    failure: str = ""

    @property
    def mean_s(self) -> float:
        """Mean seconds of a request."""
        return fmean(self.seconds)


@dataclass
class Sizes:
    """How much to measure: passages of a request, seconds for each candidate and load, turns,
    PyTorch's batches, our budgets of tokens, and whether TensorRT is measured, too.

    By default what takes some five minutes with the 1B shape.
    """

    passages: int = 100
    seconds: float = 2.0
    turns: int = 1
    batches: Sequence[int] = (32, 100)
    budgets: Sequence[int] = (16384,)
    tensorrt: bool = False


_FULL = Sizes(turns=2, batches=(16, 32, 64, 100), budgets=(4096, 8192, 16384, 32768), tensorrt=True)
_QUICK = Sizes(passages=6, seconds=0.0, batches=(4,), budgets=(256,))


def measure(args: argparse.Namespace) -> int:
    """Measure, print and write; 0 unless nothing could be measured. `args` are those of the command
    line."""
    sizes = _QUICK if args.quick else _FULL if args.full else Sizes()
    config = CONFIGS[args.model]
    loads = make_loads(sizes.passages, config["vocab_size"])
    ceilings = gpu_ceilings(
        matrix_shapes(config), _CEILING_ROWS if args.device == "cuda" else 64, args.device
    )
    facts = _facts(args.device, args.model)
    found: list[Measured] = []

    def keep() -> str:
        """Write what was measured so far: the machine may be taken away."""
        text = report(facts, loads, found, ceilings, config)
        measured = [asdict(one) for one in found]
        save(args.out, {"machine": facts, "ceilings": ceilings, "measured": measured}, text)
        return text

    with results_folder(args.out), tempfile.TemporaryDirectory() as work:
        candidates = _candidates(args.model, args.device, sizes, Path(work))
        wanted = {load.name: wanted_logits(args.model, load.rows, args.device) for load in loads}
        for turn in range(sizes.turns):
            for candidate in candidates if turn % 2 == 0 else reversed(candidates):
                _take_turn(candidate, loads, wanted, sizes, found, keep)
        sys.stdout.write(keep())
    return 0 if any(one.seconds for one in found) else 1


def _candidates(model: str, device: str, sizes: Sizes, work: Path) -> list[Candidate]:
    plain = export(model, "float16", work / "float16")
    fast = adapted(plain)
    on_gpu = device == "cuda"
    ort, title = ("onnxruntime-cuda", "ORT-CUDA") if on_gpu else ("onnxruntime-cpu", "ORT-CPU")
    shipped = load_target_profile("cuda-fp16-graphs")
    found = [
        pytorch(model, dtype, batch, device)
        for dtype in (torch.float16, torch.bfloat16)
        for batch in sizes.batches
    ]
    found += [
        # Nothing more; captured graphs, one for every bucket within the budget, so that large calls
        # show cost and gain as small ones do; a call ahead; and both as cuda-fp16-graphs has them.
        ours(ort, f"{title} fp16", fast, budget, graph_tokens, ahead)
        for budget in sizes.budgets
        for graph_tokens, ahead in dict.fromkeys(
            ((0, 0), (budget, 0), (0, 1), (shipped.graph_tokens, shipped.calls_ahead))
        )
    ]
    # The targets that are off until they are 1.1 times as fast here: bytes and padding apart.
    found += [
        ours(ort, f"{title} fp16, {name}", adapted(plain, lean=lean, packed=packed), budget)
        for name, lean, packed in (
            ("packed", False, True),
            ("lean", True, False),
            ("lean and packed", True, True),
        )
        for budget in sizes.budgets
    ]
    found.append(ours(ort, f"{title} fp16, ONNX's operators", plain, sizes.budgets[-1]))
    if on_gpu and sizes.tensorrt:
        try:
            build_plan(plain)
        except EngineUnavailable as error:
            # The candidates of plans say the same.
            print_line(f"no plan: {error}")
        found += [
            ours(engine, name, plain, budget)
            for engine, name in (
                ("onnxruntime-tensorrt", "ORT-TensorRT fp16"),
                ("tensorrt", "TensorRT plan fp16"),
            )
            for budget in sizes.budgets
        ]
    return found


def _take_turn(
    candidate: Candidate,
    loads: Sequence[Load],
    wanted: dict[str, np.ndarray],
    sizes: Sizes,
    found: list[Measured],
    keep: Callable[[], object],
) -> None:
    """Open the candidate, measure all loads, each of which is kept, and close it; a failure is
    noted once."""
    began = time.monotonic()
    entries = [one for one in found if one.candidate == candidate.name]
    if not entries:
        entries = [
            Measured(candidate.name, candidate.precision, candidate.ours, load.name)
            for load in loads
        ]
        found += entries
    try:
        with candidate.opened() as score:
            for load, entry in zip(loads, entries, strict=True):
                if not entry.failure:
                    _measure(score, load, wanted[load.name], sizes, entry)
                    keep()
    except Exception as error:
        # Any error is this candidate's result; the others run.
        for entry in entries:
            entry.failure = entry.failure or failure_of(error)
        word = "not here" if isinstance(error, EngineUnavailable) else "failed"
        print_line(f"{candidate.name}: {word}: {failure_of(error)}")
    else:
        print_line(f"{candidate.name}: {time.monotonic() - began:.0f} s")


def _measure(score: Score, load: Load, wanted: np.ndarray, sizes: Sizes, entry: Measured) -> None:
    for _ in range(_WARM_RUNS):
        logits = score(load.rows)
    entry.max_delta = float(np.abs(logits - wanted).max())
    end = time.perf_counter() + sizes.seconds
    while True:
        start = time.perf_counter()
        score(load.rows)
        now = time.perf_counter()
        entry.seconds.append(now - start)
        if now >= end:
            return


def report(
    facts: dict[str, str],
    loads: Sequence[Load],
    found: Sequence[Measured],
    ceilings: dict[str, float],
    config: dict[str, object],
) -> str:
    """The run as Markdown."""
    lines = ["# GPU benchmark", "", ", ".join(f"{k} {v}" for k, v in facts.items()) + ".", ""]
    rates = ", ".join(f"{k} {number(v / 1e12)} TFLOP/s" for k, v in ceilings.items())
    lines += [f"Matrix products of one layer, measured: {rates}.", ""]
    for load in loads:
        operations = sum(flops(config, len(row)) for row in load.rows)
        entries = [entry for entry in found if entry.load == load.name]
        best_s = min((e.mean_s for e in entries if e.seconds and not e.ours), default=None)
        rows = [_row(entry, load, operations, ceilings, best_s) for entry in entries]
        lines += [f"## {load.name}, {load.tokens} tokens", "", table(_HEAD, rows), ""]
    return "\n".join(lines)


def _row(
    entry: Measured,
    load: Load,
    operations: float,
    ceilings: dict[str, float],
    best_s: float | None,
) -> list[str]:
    if not entry.seconds:
        return [entry.candidate, entry.failure, *[""] * (len(_HEAD) - 2)]
    ceiling = ceilings.get(entry.precision)
    p50, p99 = np.percentile(entry.seconds, [50, 99]) * 1e3
    return [
        entry.candidate,
        number(len(load.rows) / entry.mean_s),
        number(best_s / entry.mean_s) if best_s else "",
        number(float(p50)),
        number(float(p99)),
        f"{100 * operations / entry.mean_s / ceiling:.0f} %" if ceiling else "",
        f"{entry.max_delta:.2g}" if entry.max_delta is not None else "",
    ]


def _facts(device: str, model: str) -> dict[str, str]:
    gpu = find_gpu() if device == "cuda" else None
    packages = ("torch", "transformers", "onnxruntime-gpu", "tensorrt")
    return {
        "model": f"{model} (random weights)",
        "device": f"{gpu.name} (driver {gpu.driver})" if gpu else "CPU",
        "Python": platform.python_version(),
        **{name: version or "missing" for name, version in versions(packages).items()},
    }
