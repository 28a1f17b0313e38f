"""Observe the inputs of linear layers on real texts, and compute the outputs of a graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, TensorProto, helper, numpy_helper

from exporter.quantization.graph import Floats
from runtime.manifest import MODEL_FILE
from runtime.telemetry import import_without_telemetry

_ERRORS_ONLY = 3
_GRAPH_FILE = "calibration.onnx"
_AXES = "calibration.axes"

Inputs = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Range:
    """The smallest and the largest value that each channel took, float32 [channels]."""

    lowest: Floats
    highest: Floats


@dataclass(frozen=True)
class Observed:
    """What a graph did with the texts: `ranges` of the values that were observed, by name, and its
    first output for each text, `answers` float32 [texts, …]."""

    ranges: Mapping[str, Range]
    answers: Floats


def watch(directory: Path, sources: Sequence[str], texts: Sequence[Inputs]) -> Observed:
    """Run model.onnx of `directory` on `texts`, one unpadded row each, and observe `sources`.

    `sources` names values [1, sequence, channels] of the graph, float32 or half.
    """
    model = onnx.load(directory / MODEL_FILE, load_external_data=False)
    _add_outputs(model.graph, sources)
    path = directory / _GRAPH_FILE  # in the same folder as the weights that it refers to
    try:
        onnx.save(model, path)
        return _observe(path, sources, texts)
    finally:
        path.unlink(missing_ok=True)


def answers(path: Path, texts: Sequence[Inputs]) -> Floats:
    """The first output of the graph at `path` for each of `texts`, float32 [texts, …]."""
    session = open_session(path)
    return np.concatenate([session.run(None, dict(inputs))[0] for inputs in texts])


def open_session(path: Path, **settings: Any) -> Any:
    """ONNX Runtime's session on the CPU for the graph at `path`, with these `settings` of it."""
    onnxruntime = import_without_telemetry("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    for name, value in settings.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=["CPUExecutionProvider"]
    )


def _observe(path: Path, sources: Sequence[str], texts: Sequence[Inputs]) -> Observed:
    session = open_session(path)
    ranges: dict[str, Range] = {}
    answers = []
    wanted = [output for name in sources for output in _outputs(name)]
    for inputs in texts:
        answer, *extremes = session.run([session.get_outputs()[0].name, *wanted], dict(inputs))
        answers.append(answer)
        found = dict(zip(wanted, extremes, strict=True))
        for name in sources:
            low, high = (found[output] for output in _outputs(name))
            known = ranges.get(name, Range(low, high))
            ranges[name] = Range(np.minimum(known.lowest, low), np.maximum(known.highest, high))
    return Observed(ranges, np.concatenate(answers))


def _outputs(source: str) -> tuple[str, str]:
    return f"{source}.lowest", f"{source}.highest"


def _add_outputs(graph: GraphProto, sources: Sequence[str]) -> None:
    """The extremes of every source's channels, over its rows and tokens."""
    graph.initializer.append(numpy_helper.from_array(np.asarray([0, 1], np.int64), _AXES))
    for name in sources:
        lowest, highest = _outputs(name)
        widened = f"{name}.watched"  # the CPU provider has no reduction in half precision
        graph.node.extend(
            (
                helper.make_node("Cast", [name], [widened], to=TensorProto.FLOAT),
                helper.make_node("ReduceMin", [widened, _AXES], [lowest], keepdims=0),
                helper.make_node("ReduceMax", [widened, _AXES], [highest], keepdims=0),
            )
        )
        graph.output.extend(
            helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
            for output in (lowest, highest)
        )
