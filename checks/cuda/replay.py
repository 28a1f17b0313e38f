"""What the CUDA provider makes of a graph, computed by the CPU's kernels in float32.

The fake CUDA computes nothing, so this is what shows that fusions and placement keep a graph's
meaning: the optimised graph and ours, both with 16-bit values turned to float32, give the same; and
what PyTorch gives is within the tolerance of the precision. A third time the optimised graph is
computed with every 16-bit value rounded to what it is on the GPU: that is what a precision costs,
but for roundings within a kernel, such as those of rotary embeddings in half precision.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from exporter.tolerances import TOLERANCES
from runtime.engines import Arrays
from runtime.profile import Precision

_HALVES = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
# Copies between devices, which a CPU has no need of.
_COPIES = {"MemcpyFromHost", "MemcpyToHost"}
_NO_KERNEL = re.compile(r"find an implementation for (\w+)|(\w+)\(\d+\) is not a registered")
# Half of the last place, as a share of the largest output: constants are folded in half precision.
_ROUNDING: dict[Precision, float] = {"fp16": 2**-11, "bf16": 2**-8}


class Replay(NamedTuple):
    """`from_ours` and `from_pytorch` are the largest differences, in units of what is allowed, and
    `rounded` is the one of rounded values from PyTorch's; `missing` are operators without a kernel
    on the CPU, for which nothing was computed."""

    from_ours: float
    from_pytorch: float
    rounded: float
    missing: list[str]

    @property
    def complaints(self) -> list[str]:
        """What is wrong."""
        if self.missing:
            return [f"no kernel on the CPU for {', '.join(self.missing)}"]
        found = {
            "the graph before": self.from_ours,
            "PyTorch": self.from_pytorch,
            "PyTorch, once rounded,": self.rounded,
        }
        return [f"{far:.2g} × the tolerance from {what}" for what, far in found.items() if far > 1]


def replay(
    optimized: Path, ours: Path, inputs: Arrays, values: np.ndarray, precision: Precision
) -> Replay:
    """Compare the graph `optimized` with `ours` and with PyTorch's `values`."""
    models = [in_float32(onnx.load(path)) for path in (optimized, ours)]
    if missing := _missing(models[0]):
        return Replay(np.inf, np.inf, np.inf, missing)
    found, before = (_run(model, inputs) for model in models)
    rounded = _run(in_float32(onnx.load(optimized), rounding=True), inputs)
    allowed = _ROUNDING[precision] * np.abs(before).max()
    tolerance = TOLERANCES[precision].random * values.std()
    return Replay(
        float(np.abs(found - before).max() / allowed),
        float(np.abs(found - values).max() / tolerance),
        float(np.abs(rounded - values).max() / tolerance),
        [],
    )


def in_float32(model: ModelProto, *, rounding: bool = False) -> ModelProto:
    """`model` with every 16-bit value in float32, in place; with `rounding` each is then rounded to
    its 16 bits, without it only constants that a cast has rounded."""
    graph = model.graph
    halves = _halves(graph, constants=not rounding)
    for tensor in graph.initializer:
        _widen(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i in _HALVES:
                attribute.i = TensorProto.FLOAT
    drop_copies(graph)
    _round(graph, halves)
    return model


def _halves(graph: GraphProto, *, constants: bool) -> dict[str, int]:
    """The 16-bit values that nodes make, or only those that are cast `constants`, with their
    types."""
    found = {i.name: i.data_type for i in graph.initializer if i.data_type in _HALVES}
    fixed = {i.name for i in graph.initializer}
    made: dict[str, int] = {}
    for node in graph.node:
        if constants and not (node.op_type == "Cast" and node.input[0] in fixed):
            continue
        kinds = {found[name] for name in node.input if name in found}
        if node.op_type == "Cast":
            kinds = {a.i for a in node.attribute if a.name == "to"} & _HALVES
        if kinds and node.op_type != "Shape":
            (kind,) = kinds
            made |= dict.fromkeys(filter(None, node.output), kind)
            found |= made
    return made


def _round(graph: GraphProto, halves: dict[str, int]) -> None:
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        rounded = [name for name in node.output if name in halves]
        node.output[:] = [f"{name}.wide" if name in halves else name for name in node.output]
        graph.node.append(node)
        for name in rounded:
            narrow = helper.make_node("Cast", [f"{name}.wide"], [f"{name}.16"], to=halves[name])
            wide = helper.make_node("Cast", [f"{name}.16"], [name], to=TensorProto.FLOAT)
            graph.node.extend([narrow, wide])


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in _HALVES:
        wide = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def drop_copies(graph: GraphProto) -> None:
    """Replace copies between devices by nothing, in place."""
    for node in graph.node:
        if node.op_type in _COPIES:
            node.CopyFrom(helper.make_node("Identity", node.input, node.output))


def _run(model: ModelProto, inputs: Arrays) -> np.ndarray:
    session = session_of(model)
    (found,) = session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})
    return np.asarray(found)


def session_of(model: ModelProto) -> onnxruntime.InferenceSession:
    """A session on the CPU's kernels."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # As it is: what was optimised for a GPU is to be computed.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _missing(model: ModelProto) -> list[str]:
    """Operators of `model` without a kernel on the CPU: of those that keep it from opening."""
    try:
        session_of(model)
    except Exception as error:  # ONNX Runtime's own classes
        names = [name for pair in _NO_KERNEL.findall(str(error)) for name in pair if name]
        return names or [str(error)]
    return []
