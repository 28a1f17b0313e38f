"""The graphs that the CUDA provider really runs: python -m checks.cuda.optimized QUESTION ANSWER
opens each graph as the engine does and writes what ONNX Runtime makes of it, for replay.py."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import onnxruntime

from checks.cuda.probe import ENGINE, Case
from runtime.engines import MODEL_FILE, VISION_FILE, EngineSetup
from runtime.engines.ort import _session
from runtime.engines.ort_options import provider_options
from runtime.telemetry import disable_telemetry


def optimize(case: Case, out: Path) -> str:
    """Write the optimised graph of `case` to `out`; returns its path."""

    def options() -> Any:
        made = onnxruntime.SessionOptions()
        made.optimized_model_filepath = str(out)
        return made

    saving = SimpleNamespace(SessionOptions=options, InferenceSession=onnxruntime.InferenceSession)
    graph = Path(case.directory) / (VISION_FILE if case.tower else MODEL_FILE)
    providers = provider_options(ENGINE, EngineSetup(precision=case.precision))
    _session(saving, ENGINE, graph, providers, 1)
    return str(out)


def main(question: Path, answer: Path) -> int:
    """Write {name: path of the optimised graph}."""
    disable_telemetry()
    cases = msgspec.json.decode(question.read_bytes(), type=list[Case])
    found = {
        case.name: optimize(case, question.with_name(f"optimized-{number}.onnx"))
        for number, case in enumerate(cases)
    }
    answer.write_bytes(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
