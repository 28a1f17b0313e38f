"""One process under the fake CUDA, as a card of one compute capability: python -m checks.cuda.probe
QUESTION ANSWER opens the graphs that the JSON file QUESTION names by the engine that serves them,
calls them, and writes what happened into ANSWER."""

import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from checks.cuda.trace import Counts, listening
from runtime.engines import Arrays, Engine, EngineSetup, open_engine
from runtime.errors import ServingError
from runtime.profile import Precision, load_target_profile
from runtime.shapes import PLACES_INPUT
from runtime.telemetry import disable_telemetry

ENGINE = "onnxruntime-cuda"
# No multiple of 4, and one that is the shape of a captured graph.
ODD, CAPTURED = (3, 33), (4, 64)
# As in the targets that ask for captured graphs.
GRAPH_TOKENS = load_target_profile("cuda-fp16-graphs").graph_tokens
# Calls after which the memory of a shape has been taken: pieces that fit badly are taken anew.
_BEFORE = 4


class Case(msgspec.Struct):
    """A graph: model.onnx of `directory`, or vision.onnx of a `tower`; inputs are `recorded`."""

    name: str
    directory: str
    recorded: str
    precision: Precision
    tower: bool


class Facts(msgspec.Struct):
    """What happened: the `error` that opening ended with; operators that run on the CPU; the counts
    of a plain call, of the one that captures a CUDA graph and of one that replays it."""

    error: str | None = None
    elsewhere: dict[str, int] = {}
    plain: Counts | None = None
    capture: Counts | None = None
    replay: Counts | None = None


def examine(case: Case) -> Facts:
    """Open and call one graph; once for plain calls, as all targets are served, and once for
    captured ones."""
    facts = Facts()
    try:
        with closing(opened(case, EngineSetup(precision=case.precision))) as engine:
            facts.elsewhere = _elsewhere(engine)
            inputs = inputs_for(case, *engine.shape_for(*ODD))
            for _ in range(_BEFORE):
                engine.run(inputs)
            facts.plain = _counted(engine, inputs)
        setup = EngineSetup(precision=case.precision, graph_tokens=GRAPH_TOKENS)
        with closing(opened(case, setup)) as engine:
            inputs = inputs_for(case, *CAPTURED)
            facts.capture, facts.replay = _counted(engine, inputs), _counted(engine, inputs)
    except ServingError as error:
        facts.error = f"{type(error).__name__}: {error}"
    return facts


def opened(case: Case, setup: EngineSetup) -> Engine:
    """The engine on the case's graph. Raises ServingError."""
    return open_engine(ENGINE, Path(case.directory), setup, tower=case.tower)


def _elsewhere(engine: Engine) -> dict[str, int]:
    parts = engine._session.get_provider_graph_assignment_info()  # type: ignore[attr-defined]
    elsewhere = (part for part in parts if part.ep_name != "CUDAExecutionProvider")
    return dict(Counter(node.op_type for part in elsewhere for node in part.get_nodes()))


def _counted(engine: Engine, inputs: Arrays) -> Counts:
    with listening() as heard:
        engine.run(inputs)
    return heard.counts


def inputs_for(case: Case, rows: int, tokens: int) -> Arrays:
    """Zeros but for a real token in each row, and no image; of a tower a few tiles."""
    folder = Path(case.recorded)
    if case.tower:
        return {"pixel_values": np.load(folder / "pixels.npy")}
    found: dict[str, np.ndarray] = {}
    with np.load(folder / "inputs.npz") as recorded:
        for name, values in recorded.items():
            flat = values.ndim == 2
            shape = (rows, tokens) if flat else (0, *values.shape[1:])
            found[name] = np.zeros(shape, values.dtype)
    found["attention_mask"][:, 0] = 1
    found[PLACES_INPUT] = np.flatnonzero(found["attention_mask"])
    return found


def main(question: Path, answer: Path) -> int:
    """Examine the cases of `question`; write {name: Facts}."""
    disable_telemetry()
    cases = msgspec.json.decode(question.read_bytes(), type=list[Case])
    answer.write_bytes(msgspec.json.encode({case.name: examine(case) for case in cases}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
