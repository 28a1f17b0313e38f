"""The linear layers of an ONNX graph, producers and readers of its values, and changes to it."""

from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

Floats = npt.NDArray[np.float32]

_WEIGHT_TYPES = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
# Operators between a linear layer and the scores of attention that do not change values.
_PASSING = {
    "Add",
    "Expand",
    "RMSNormalization",
    "Reshape",
    "RotaryEmbedding",
    "Slice",
    "Split",
    "Transpose",
}


@dataclass(frozen=True)
class Linear:
    """A product of activations with a constant matrix [inputs, outputs], float32 or half.

    `source` is the value that it reads, `weight` the initializer, `result` its output, which
    identifies the layer.
    """

    source: str
    weight: str
    result: str


class Graph:
    """Reads the original graph; `finish` applies all changes at once."""

    def __init__(self, model: ModelProto) -> None:
        self._graph: GraphProto = model.graph
        self._after: dict[str, list[NodeProto]] = defaultdict(list)
        self._instead: dict[str, list[NodeProto]] = {}
        self._tensors = {t.name: t for t in self._graph.initializer}
        self._added: dict[str, TensorProto] = {}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        self.maker: dict[str, NodeProto] = {}
        for node in self._graph.node:
            for name in node.input:
                self.readers[name].append(node)
            for name in node.output:
                self.maker[name] = node

    def linears(self) -> list[Linear]:
        """The linear layers in the order of the graph; products of two constants do not count."""
        return [
            Linear(source=node.input[0], weight=node.input[1], result=node.output[0])
            for node in self._graph.node
            if node.op_type == "MatMul"
            and node.input[0] not in self._tensors
            and self._is_matrix(node.input[1])
        ]

    def sources(self) -> list[str]:
        """The values that the linear layers read, each once."""
        return list(dict.fromkeys(linear.source for linear in self.linears()))

    def asking(self) -> set[str]:
        """Results of the linear layers that compute queries and keys of attention."""
        linears = {linear.result for linear in self.linears()}
        found: set[str] = set()
        for node in self._graph.node:
            if node.op_type == "Attention":
                ways = list(node.input[:2])
                while ways:
                    name = ways.pop()
                    maker = self.maker.get(name)
                    if name in linears:
                        found.add(name)
                    elif maker is not None and maker.op_type in _PASSING:
                        ways += maker.input
        return found

    def array(self, tensor: str) -> Floats:
        """An initializer; it shares the graph's memory and is read-only."""
        return numpy_helper.to_array(self._tensors[tensor])

    def add_tensor(self, name: str, values: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        """Add an initializer and return its name."""
        self._added[name] = numpy_helper.from_array(np.asarray(values, dtype), name)
        return name

    def insert(self, after: str, nodes: Sequence[NodeProto]) -> None:
        """Insert `nodes` after the node that computes `after`, and after earlier inserts."""
        self._after[after] += nodes

    def insert_rounding(self, source: str, value: str, scale: str, zero: str) -> None:
        """Insert what makes `value`.rounded after the node of `source`: `value` at the nearest
        step, whose scale and zero point are these initializers."""
        whole = f"{value}.eight"
        self.insert(
            source,
            [
                node("QuantizeLinear", [value, scale, zero], whole),
                node("DequantizeLinear", [whole, scale, zero], f"{value}.rounded"),
            ],
        )

    def replace(self, result: str, nodes: Sequence[NodeProto]) -> None:
        """Replace the node that computes `result` by `nodes`, the last of which computes it."""
        self._instead[result] = list(nodes)

    def finish(self) -> None:
        """Apply all changes, and drop the initializers that are no longer read."""
        ordered: list[NodeProto] = []
        for node in self._graph.node:
            ordered += self._instead.get(node.output[0], [node])
            for name in node.output:
                ordered += self._after[name]
        nodes = [deepcopy(node) for node in ordered]
        read = {name for node in nodes for name in node.input}
        del self._graph.node[:], self._graph.value_info[:]
        self._graph.node.extend(nodes)
        # What stays is not copied: protobuf copies no tensor above 2 GiB, such as the table of
        # words of an 8B model, and a second copy of all weights would need its memory.
        for place, tensor in reversed([*enumerate(self._graph.initializer)]):
            if tensor.name not in read:
                del self._graph.initializer[place]
        for name in list(self._added):
            tensor = self._added.pop(name)
            if name in read:
                self._graph.initializer.append(tensor)

    def _is_matrix(self, name: str) -> bool:
        tensor = self._tensors.get(name)
        return tensor is not None and len(tensor.dims) == 2 and tensor.data_type in _WEIGHT_TYPES


def node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    """A node with one output."""
    return helper.make_node(operator, list(inputs), [output], **attributes)
