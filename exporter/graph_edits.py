"""Editing an ONNX graph: new nodes, nodes in place of others, and what nobody reads."""

from collections.abc import Callable, MutableSequence
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper


class Making:
    """New nodes; their values are named after the one that they make, constants go to `added`."""

    def __init__(self, name: str, added: MutableSequence[TensorProto]) -> None:
        self.nodes: list[NodeProto] = []
        self._name, self._added, self._count = name, added, 0

    def __call__(self, op_type: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its one output."""
        output = to or self._new_name()
        self.nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def sizes(self, *sizes: int) -> str:
        """The name of a new constant, int64 [number of sizes]."""
        name = self._new_name()
        self._added.append(numpy_helper.from_array(np.asarray(sizes, np.int64), name))
        return name

    def _new_name(self) -> str:
        self._count += 1
        return f"{self._name}.{self._count}"


def replace(graph: GraphProto, change: Callable[[NodeProto], list[NodeProto]]) -> None:
    """Put the nodes that `change` makes of each node in its place."""
    new = [one for node in graph.node for one in change(node)]
    del graph.node[:]
    graph.node.extend(new)


def drop_unread(graph: GraphProto) -> None:
    """Remove nodes and constants that are not read, and their value infos."""
    read = {o.name for o in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            kept.append(node)
            read.update(node.input)
    made = {name for node in kept for name in node.output}
    for values, wanted in ((graph.initializer, read), (graph.value_info, made)):
        staying = [value for value in values if value.name in wanted]
        del values[:]
        values.extend(staying)
    del graph.node[:]
    graph.node.extend(reversed(kept))


def shape_of(value: ValueInfoProto) -> list[int | str]:
    """The sizes of a value's axes, or their names."""
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def attribute(node: NodeProto, name: str, default: object) -> object:
    """The value of an attribute, or the `default` where the node has none."""
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else helper.get_attribute_value(found)
