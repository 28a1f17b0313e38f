"""`make check-tensorrt`, its second part: every family's graphs for every target of TensorRT, held
against what its parser says that it takes.

    python -m checks.tensorrt_graphs [FAMILY ...]

TensorRT is not here: `exporter/tensorrt_operators.toml` has what is said of the operators, their
types and ranks, by version. A process for each core writes the graphs of a family after another.
The exit status is 1 when a graph has something that the pinned version does not take.
"""

import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnx
import torch

from checks.cuda.families import FAMILIES, Write
from exporter.checkpoint import read_checkpoint
from exporter.draft import ExportArgs, draft
from exporter.errors import ExportError
from exporter.model_profile import choose_profile
from exporter.quantization.calibration import Range
from exporter.quantization.graph import Graph
from exporter.quantization.static import quantize_static
from exporter.target_graph import PARSED, write_graph
from exporter.tensorrt_graph import complaints, needed_version
from exporter.tensorrt_operators import numbers
from exporter.tolerances import LOW_PRECISIONS
from runtime.cores import usable_cores
from runtime.manifest import MODEL_FILE
from runtime.profile import TargetProfile, load_target_profile, target_profile_names
from runtime.selection import takes_images
from runtime.telemetry import disable_telemetry
from tests.zoo.cases import CASES
from tests.zoo.targets import ROWS

PINS = Path("checks/requirements/tensorrt-10.txt")
# For targets that need a newer one.
NEWER_PINS = Path("checks/requirements/tensorrt-11.txt")
# What the scales of Q/DQ are does not matter to the parser.
_RANGE = Range(np.full(1, -1, np.float32), np.full(1, 1, np.float32))


@dataclass(frozen=True)
class Result:
    """A graph of a family: the targets that have it, how many nodes it has, the oldest version of
    TensorRT that takes it (None: no version), and what is wrong with it."""

    family: str
    targets: Sequence[str]
    file: str
    nodes: int
    version: str | None
    complaints: Sequence[str]


def main(arguments: Sequence[str]) -> int:
    """0 when the pinned version takes all graphs."""
    chosen = list(arguments) or [*FAMILIES, *(row.case for row in ROWS)]
    pins = {path: pinned_version(path.read_text("utf-8")) for path in (PINS, NEWER_PINS)}
    wrong = 0
    with ProcessPoolExecutor(usable_cores(), get_context("spawn"), _prepare) as pool:
        for results in pool.map(family_results, chosen):
            for result in results:
                newer = any(load_target_profile(t).attention == "lengths" for t in result.targets)
                refused = problems(result, pins[NEWER_PINS if newer else PINS])
                wrong += bool(refused)
                print(
                    f"{result.family}, {' '.join(result.targets)}, {result.file}: "
                    f"{result.nodes} nodes, TensorRT {result.version} or newer",
                    *(f"\n    {text}" for text in refused),
                    sep="",
                    flush=True,
                )
    print(f"{len(chosen)} families, {wrong} graphs that TensorRT {pins[PINS]} does not take")
    return 1 if wrong else 0


def pinned_version(pins: str) -> str:
    """The version of TensorRT 10 in the lines of a requirements file, like "10.16.1.11"."""
    found = re.search(r"==(\S+)", pins)
    assert found is not None
    return found[1]


def problems(result: Result, pinned: str) -> list[str]:
    """What keeps TensorRT `pinned` from taking the graph."""
    found = list(result.complaints)
    if result.version is not None and numbers(result.version) > numbers(pinned)[:2]:
        found.append(f"needs {result.version}, found {pinned}")
    return found


def family_results(family: str) -> list[Result]:
    """Write the graphs of `family`, and hold each against the table."""
    with tempfile.TemporaryDirectory() as work:
        return list(_results(family, Path(work)))


def _results(family: str, work: Path) -> Iterator[Result]:
    folder, args = _checkpoint(family, work / "checkpoint")
    read = read_checkpoint(str(folder), pooling=args.pooling)
    profile = choose_profile(args.profile, read.architecture, read.kind)
    for kind, targets in _targets().items():
        targets = [one for one in targets if read.vision is None or takes_images(one)]
        graphs = work / "-".join(kind)
        graphs.mkdir()
        found = draft(read, profile, targets[0], replace(args, target=targets[0].name))
        try:
            write_graph(found.checkpoint, targets[0], graphs)
        except ExportError:
            # Of a causal model, which has no mask, and of DeBERTa, whose attention is its own.
            if targets[0].attention == "mask":
                raise
            continue
        for precision in dict.fromkeys(target.precision for target in targets):
            names = [target.name for target in targets if target.precision == precision]
            for path in sorted(graphs.glob("*.onnx")):
                model = onnx.load(path)
                if path.name == MODEL_FILE and precision in LOW_PRECISIONS:
                    ranges = dict.fromkeys(Graph(model).sources(), _RANGE)
                    quantize_static(model, ranges, precision)
                size, version = len(model.graph.node), needed_version(model)
                yield Result(family, names, path.name, size, version, complaints(model))


def _checkpoint(family: str, directory: Path) -> tuple[Path, ExportArgs]:
    """Write the checkpoint of `family`, a name of FAMILIES or of a case of the zoo."""
    write: Write | None = FAMILIES.get(family)
    if write is not None:
        directory.mkdir()
        return write(directory), ExportArgs()
    (case,) = (case for case in CASES if case.name == family)
    return case.build(directory) / case.source, case.args


def _targets() -> dict[tuple[str, str], list[TargetProfile]]:
    """The targets whose graphs TensorRT parses, by the type of their weights and their attention:
    those that share both are made of one graph, the first as it is."""
    found: dict[tuple[str, str], list[TargetProfile]] = {}
    for target in map(load_target_profile, target_profile_names()):
        if target.engine in PARSED:
            found.setdefault((target.weights, target.attention), []).append(target)
    return {
        kind: sorted(targets, key=lambda target: target.precision in LOW_PRECISIONS)
        for kind, targets in found.items()
    }


def _prepare() -> None:
    disable_telemetry()
    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
