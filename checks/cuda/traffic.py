"""What a layer reads and writes beside its products and attention, by the graph that runs.

Counted for the nodes from one attention to the next of the graph that ONNX Runtime made for the
CUDA provider; a node is a kernel that reads each input and writes each output once. Weights are not
counted, because all tokens share them.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, ValueInfoProto

from checks.cuda.replay import drop_copies, session_of
from runtime.engines import Arrays

_ATTENTION = {"Attention", "Softmax"}
_PRODUCTS = _ATTENTION | {"FusedMatMul", "Gemm", "MatMul"}
# Nodes without a kernel.
_VIEWS = {"Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze"}
_SUMS = {"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"}
_SIZES = {"tensor(float16)": 2, "tensor(float)": 4, "tensor(int32)": 4, "tensor(int64)": 8} | {
    "tensor(bool)": 1
}
_HALF_BYTES = 2


class Traffic(NamedTuple):
    """Of one layer: its casts, and its bytes a token in units of a hidden state in 16 bits, which
    has `hidden` components."""

    casts: int
    states: float
    hidden: int

    def kilobytes(self, wider: int) -> float:
        """KB a token of a model that is so many times as wide. A bit too many: angles and indexes
        do not grow with it."""
        return self.states * _HALF_BYTES * self.hidden * wider / 1000


def of_a_layer(optimized: Path, inputs: Arrays, tokens: int) -> Traffic:
    """Count the last whole layer of a graph in float16, called with `inputs` of so many tokens
    without padding."""
    model = onnx.load(optimized)
    drop_copies(model.graph)
    nodes = list(model.graph.node)
    places = [place for place, node in enumerate(nodes) if node.op_type in _ATTENTION]
    layer = nodes[places[-2] + 1 : places[-1]]
    constants = {i.name for i in model.graph.initializer}
    hidden = next(
        i.dims[0]
        for node in layer
        if node.op_type in _SUMS
        for i in model.graph.initializer
        if i.name == node.input[2]
    )
    sizes = _sizes(model, inputs)
    moved = sum(
        _moved(node, sizes, constants) for node in layer if node.op_type not in _PRODUCTS | _VIEWS
    )
    casts = sum(node.op_type == "Cast" for node in layer)
    return Traffic(casts, moved / tokens / (hidden * _HALF_BYTES), hidden)


def _moved(node: NodeProto, sizes: dict[str, int], constants: set[str]) -> int:
    written = sum(sizes[name] for name in node.output if name)
    read = [name for name in dict.fromkeys(node.input) if name and name not in constants]
    if node.op_type == "Gather":  # reads what it writes, and where that is
        return 2 * written + sum(sizes[name] for name in read[1:])
    return written + sum(sizes[name] for name in read)


def _sizes(model: ModelProto, inputs: Arrays) -> dict[str, int]:
    """Bytes of every value."""
    known = {o.name for o in model.graph.output}
    made = [name for node in model.graph.node for name in node.output if name and name not in known]
    model.graph.output.extend(ValueInfoProto(name=name) for name in made)
    session: onnxruntime.InferenceSession = session_of(model)
    found = session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})
    sizes = {
        one.name: int(np.size(value)) * _SIZES[one.type]
        for one, value in zip(session.get_outputs(), found, strict=True)
    }
    return sizes | {name: value.nbytes for name, value in inputs.items()}
