"""Whether TensorRT's ONNX parser says that it takes a graph, before anybody has TensorRT.

`tensorrt_operators.toml` has what it says. Types and ranks are those that ONNX's shape inference
finds.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper, shape_inference

from exporter.errors import ExportError
from exporter.tensorrt_operators import Limits, first_version, opsets, supported

_SHOWN = 5


def require_parsed(path: Path) -> None:
    """Raise ExportError unless every operator of the graph at `path` is in the table with its types
    and ranks."""
    model = onnx.load(path, load_external_data=False)
    found = complaints(model)
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ExportError(
            f"found in {path.name}, wanted what TensorRT's parser takes: "
            f"{'; '.join(found[:_SHOWN])}{more}; export for another target, such as cuda-fp16"
        )


def needed_version(model: ModelProto) -> str | None:
    """The oldest version of TensorRT whose parser takes all operators of `model`; None if there is
    none."""
    return first_version(node.op_type for node in model.graph.node)


def complaints(model: ModelProto) -> list[str]:
    """What the parser does not say that it takes, by any version: texts that name node and
    operator."""
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    view = _View(inferred)
    oldest, newest = opsets()
    opset = next(one.version for one in model.opset_import if one.domain == "")
    found = [] if oldest <= opset <= newest else [f"opset {opset}, wanted {oldest} to {newest}"]
    for node in inferred.graph.node:
        found += [f"{node.op_type} ({node.name}): {text}" for text in view.complaints(node)]
    return found


class _View:
    """Types, ranks and constants of the values of a graph."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self._opset = next(one.version for one in model.opset_import if one.domain == "")
        self._kinds: dict[str, str] = {}
        self._ranks: dict[str, int] = {}
        for value in (*graph.value_info, *graph.input, *graph.output):
            kind = value.type.tensor_type
            self._kinds[value.name] = TensorProto.DataType.Name(kind.elem_type)
            if kind.HasField("shape"):
                self._ranks[value.name] = len(kind.shape.dim)
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
        for name, tensor in self._constants.items():
            self._kinds[name] = TensorProto.DataType.Name(tensor.data_type)
            self._ranks[name] = len(tensor.dims)

    def complaints(self, node: NodeProto) -> Iterator[str]:
        """What is wrong with `node`."""
        operator = supported().get(node.op_type)
        if operator is None:
            yield "no version knows it"
            return
        if operator.limits is None:
            yield "its restrictions are not in tensorrt_operators.toml; add them there"
            return
        wanted = ", ".join(sorted(operator.types))
        for number in self._like_main(node, operator.limits.main):
            kind = self._kinds.get(node.input[number], "of an unknown type")
            if kind not in operator.types:
                yield f"input {number} is {kind}, wanted {wanted}"
        yield from self._broken(node, operator.limits)

    def _like_main(self, node: NodeProto, main: int) -> list[int]:
        """The numbers of the inputs that share the type variable of input `main`."""
        if node.domain or not node.input:
            return [main] if node.input else []
        declared = [one.type_str for one in defs.get_schema(node.op_type, self._opset).inputs]
        # The last may stand for several.
        declared += declared[-1:] * (len(node.input) - len(declared))
        return [
            number
            for number, name in enumerate(node.input)
            if name and declared[number] == declared[main]
        ]

    def _broken(self, node: NodeProto, limits: Limits) -> Iterator[str]:
        given = {number: name for number, name in enumerate(node.input) if name}
        outputs = [name for name in node.output if name]
        if limits.outputs is not None and len(outputs) > limits.outputs:
            yield f"{len(outputs)} outputs, wanted {limits.outputs}"
        for number in sorted(given.keys() & {*limits.absent}):
            yield f"input {number} is given, wanted none"
        for attribute in node.attribute:
            if attribute.name in limits.without and helper.get_attribute_value(attribute):
                yield f"it has the attribute {attribute.name}, wanted none"
        for number in sorted(given.keys() & {*limits.constant, *limits.zero}):
            tensor = self._constants.get(given[number])
            if tensor is None:
                yield f"input {number} is computed, wanted a constant"
            elif number in limits.zero and np.any(numpy_helper.to_array(tensor).astype(np.float32)):
                yield f"input {number} is not 0, wanted 0"
        for number in sorted(given.keys() & limits.ranks.keys()):
            rank = self._ranks.get(given[number])
            if rank != limits.ranks[number]:
                yield f"input {number} has rank {rank}, wanted {limits.ranks[number]}"
        for number in sorted(given.keys() & limits.kinds.keys()):
            kind = self._kinds.get(given[number])
            if kind != limits.kinds[number]:
                yield f"input {number} is {kind}, wanted {limits.kinds[number]}"
