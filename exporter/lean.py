"""Fewer bytes and launches beside the products of a graph for ONNX Runtime's CUDA provider.

Between products, `onnxruntime_cuda` keeps the residual stream, norms and rotary angles in float32.
Here they are in the weights' type: norms read and write it, and no casts are left between them.
ONNX Runtime's norms and activations still compute in float32 and round what they write. The last
norm stays float32. What that costs in accuracy is for the rungs to show, checkpoint by checkpoint;
the residual stream of one with large activations can leave the range of float16.

Queries, keys and values come from one product of their joined weights, and one kernel rotates them:
values by an angle of 0, which leaves them as they are.

A gated feed-forward block with SiLU becomes one kernel. ONNX Runtime has none, but it has
GatedRMSNorm, x / √(mean(x²) + ε) · scale · silu(gate), computed in float32. With scale = √ε and ε
far above every mean(x²) that is x · silu(gate), up to the factor 1 - mean(x²) / 2ε.
"""

from collections import defaultdict
from collections.abc import Iterator
from math import gcd
from typing import NamedTuple

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from exporter.graph_edits import Making, attribute, drop_unread, shape_of

_CONTRIB = "com.microsoft"
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_SUMS = {"SkipSimplifiedLayerNormalization", "SkipLayerNormalization"}
# What is computed in the weights' type instead of float32.
_HALVED = _SUMS | {"RMSNormalization", "LayerNormalization", "RotaryEmbedding", "Reshape"}
# The square root of GatedRMSNorm's ε: the largest power of two of float16, and one of bfloat16
# whose square float32 has. Values of a size of 1000 are then off by 0.05 % and by nothing.
_ROOTS: dict[int, float] = {TensorProto.FLOAT16: 2.0**15, TensorProto.BFLOAT16: 2.0**60}
# How many values GatedRMSNorm takes the mean of, at most.
_GROUP = 256


def save_bytes(graph: GraphProto) -> None:
    """Rewrite `graph`, which has the operators of `onnxruntime_cuda` and weights in half precision,
    in place."""
    _Halving(graph).apply()
    drop_unread(graph)
    _Joining(graph).apply()
    drop_unread(graph)


class _Halving:
    """Norms, rotary embeddings and the sums between them in the type of the weights."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._constants = {i.name: i.data_type for i in graph.initializer}
        self._info = {v.name: v for v in graph.value_info}
        self._maker = {name: node for node in graph.node for name in node.output}
        self._half = next(kind for kind in self._constants.values() if kind in _HALVES)
        self._wanted = self._find_wanted()
        self._halved: set[str] = set()
        self._same: dict[str, str] = {}  # of casts without an effect: output to input
        self._casts: dict[str, str] = {}
        self._nodes: list[NodeProto] = []

    def apply(self) -> None:
        """Change the graph."""
        for node in self._graph.node:
            if node.output[0] in self._wanted and self._can_halve(node):
                self._halve(node)
            elif _casts_to(node, self._half) and node.input[0] in self._halved:
                self._same[node.output[0]] = node.input[0]
                continue
            else:
                node.input[:] = [self._as_before(name) for name in node.input]
            self._nodes.append(node)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)

    def _find_wanted(self) -> set[str]:
        """Nodes whose output is wanted in half precision, by its name."""
        wanted: set[str] = set()
        in_half: set[str] = set()
        for node in reversed(self._graph.node):
            if node.op_type in _HALVED and in_half.intersection(node.output):
                wanted.add(node.output[0])
                in_half.update(self._data(node))
            elif _casts_to(node, self._half):
                in_half.add(node.input[0])
        return wanted

    def _data(self, node: NodeProto) -> list[str]:
        """The inputs that have the type of the output."""
        return list(node.input[:1] if node.op_type == "Reshape" else node.input)

    def _can_halve(self, node: NodeProto) -> bool:
        """Whether nothing is lost before a norm: its input is in half precision already, or a sum
        with something that is."""
        return node.op_type in _SUMS or self._in_half(node.input[0]) is not None

    def _in_half(self, name: str) -> str | None:
        """The half-precision value that `name` is, or is a copy of."""
        if name in self._halved:
            return name
        maker = self._maker.get(name)
        if maker is None or maker.op_type != "Cast":
            return None
        source = self._same.get(maker.input[0], maker.input[0])
        return source if self._is_half(source) else None

    def _is_half(self, name: str) -> bool:
        known = self._info.get(name)
        return known is not None and known.type.tensor_type.elem_type == self._half

    def _as_before(self, name: str) -> str:
        """What has the type that `name` had."""
        if name in self._halved:
            return self._cast(name, TensorProto.FLOAT)
        return self._same.get(name, name)

    def _halve(self, node: NodeProto) -> None:
        data = [self._in_half(name) or self._cast(name, self._half) for name in self._data(node)]
        node.input[: len(data)] = data
        for name in node.output:
            if name:
                self._halved.add(name)
                self._info[name].type.tensor_type.elem_type = self._half

    def _cast(self, name: str, to: int) -> str:
        """A copy of `name` in another type, made once."""
        if name not in self._casts:
            self._casts[name] = f"{name}.cast"
            self._nodes.append(helper.make_node("Cast", [name], [f"{name}.cast"], to=to))
            if name in self._info:
                _note(self._graph, f"{name}.cast", self._info[name], to)
        return self._casts[name]


class _Projection(NamedTuple):
    """How queries, keys or values come from the states `x`, with the `angles` that rotate them."""

    x: str
    weight: str
    bias: str | None
    angles: tuple[str, ...]
    size: int


class _Joining:
    """Projections of the same states as one, and gates as one kernel."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._constants = {i.name: i for i in graph.initializer}
        self._info = {v.name: v for v in graph.value_info}
        self._maker = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, int] = defaultdict(int)
        for node in graph.node:
            for name in node.input:
                self._readers[name] += 1
        self._angles: dict[tuple[str, int, int], str] = {}
        self._scales: dict[tuple[int, int], str] = {}

    def apply(self) -> None:
        """Change the graph."""
        nodes = [one for node in self._graph.node for one in self._rewritten(node)]
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def _rewritten(self, node: NodeProto) -> Iterator[NodeProto]:
        if node.op_type == "Mul":
            self._gate(node)
        elif node.op_type == "Attention":
            yield from self._join(node)
        yield node

    def _gate(self, node: NodeProto) -> None:
        for gated, up in (node.input, node.input[::-1]):
            gate = self._gate_of(gated)
            kind = self._type(up)
            if gate is None or kind not in _ROOTS or self._readers[gated] != 1:
                continue
            joined = helper.make_node(
                "GatedRMSNorm",
                [up, self._scale(kind, gcd(int(shape_of(self._info[up])[-1]), _GROUP)), gate],
                node.output,
                domain=_CONTRIB,
                activation="silu",
                epsilon=_ROOTS[kind] ** 2,
            )
            node.CopyFrom(joined)
            return

    def _gate_of(self, name: str) -> str | None:
        """The value that `name` is the SiLU of."""
        product = self._maker.get(name)
        if product is None or product.op_type != "Mul":
            return None
        for gate, share in (product.input, product.input[::-1]):
            sigmoid = self._maker.get(share)
            if sigmoid is not None and sigmoid.op_type == "Sigmoid" and sigmoid.input[0] == gate:
                return str(gate)
        return None

    def _scale(self, kind: int, size: int) -> str:
        if (kind, size) not in self._scales:
            name = self._scales[kind, size] = f"gate.scale.{size}"
            values = np.full(size, _ROOTS[kind], helper.tensor_dtype_to_np_dtype(kind))
            self._graph.initializer.append(numpy_helper.from_array(values, name))
        return self._scales[kind, size]

    def _join(self, node: NodeProto) -> list[NodeProto]:
        """What computes queries, keys and values of an Attention node by one product."""
        heads = attribute(node, "q_num_heads", 0)
        found = [self._projection(name) for name in node.input[:3]]
        parts = [one for one in found if one is not None]
        if not heads or len(parts) != len(found):
            return []
        query, key, value = parts
        biases = [one.bias for one in parts if one.bias]
        alike = query.x == key.x == value.x and query.angles == key.angles and not value.angles
        if not alike or len(biases) not in (0, len(parts)):
            return []
        assert isinstance(heads, int)
        sizes = [one.size for one in parts]
        chunk = gcd(*sizes)
        if query.angles and chunk % (query.size // heads):
            return []  # no whole number of heads, which are rotated each for itself
        made = Making(f"{node.output[0]}.joined", self._graph.initializer)
        whole = made("MatMul", query.x, made("Concat", *(one.weight for one in parts), axis=1))
        if biases:
            whole = made("Add", whole, made("Concat", *biases, axis=0))
        if query.angles:
            size = made("Shape", whole, start=0, end=2)
            chunks = made("Reshape", whole, made.sizes(1, -1, chunk))
            rotated, every = (query.size + key.size) // chunk, sum(sizes) // chunk
            turned = made(
                "RotaryEmbedding",
                chunks,
                *(self._spread(name, rotated, every, made) for name in query.angles),
                num_heads=chunk * heads // query.size,
            )
            whole = made("Reshape", turned, made("Concat", size, made.sizes(-1), axis=0))
        inputs = [f"{name}.part" for name in node.input[:3]]
        for name, part in zip(node.input[:3], inputs, strict=True):
            _note(self._graph, part, self._info[name], self._type(name))
        split = helper.make_node("Split", [whole, made.sizes(*sizes)], inputs, axis=2)
        node.input[:3] = inputs
        return [*made.nodes, split]

    def _projection(self, name: str) -> _Projection | None:
        angles: tuple[str, ...] = ()
        maker = self._maker.get(name)
        if maker is not None and maker.op_type == "RotaryEmbedding":
            if any(attribute(maker, name, 0) for name in ("interleaved", "rotary_embedding_dim")):
                return None
            angles = tuple(maker.input[1:])
            maker = self._maker.get(maker.input[0])
        bias = None
        if maker is not None and maker.op_type == "Add" and maker.input[1] in self._constants:
            bias = maker.input[1]
            maker = self._maker.get(maker.input[0])
        if maker is None or maker.op_type != "MatMul" or maker.input[1] not in self._constants:
            return None
        x, weight = maker.input
        return _Projection(x, weight, bias, angles, self._constants[weight].dims[1])

    def _spread(self, angle: str, rotated: int, every: int, made: Making) -> str:
        """Cosines or sines of each of a token's chunks: of the first `rotated` those of `angle`
        [batch, sequence, size], of the rest those of 0."""
        if (angle, rotated, every) not in self._angles:
            own = Making(f"{angle}.spread", self._graph.initializer)
            rest = own("Sub", angle, angle)
            if self._is_cosine(angle):
                one = np.ones((), helper.tensor_dtype_to_np_dtype(self._type(angle)))
                self._graph.initializer.append(numpy_helper.from_array(one, f"{angle}.one"))
                rest = own("Add", rest, f"{angle}.one")
            for node in own.nodes:
                _note(self._graph, node.output[0], self._info[angle], self._type(angle))
            parts = [angle] * rotated + [rest] * (every - rotated)
            size = int(shape_of(self._info[angle])[-1])
            spread = own("Reshape", own("Concat", *parts, axis=2), own.sizes(1, -1, size))
            self._angles[angle, rotated, every] = spread
            made.nodes += own.nodes
        return self._angles[angle, rotated, every]

    def _is_cosine(self, name: str) -> bool:
        ways = [name]
        while ways:
            maker = self._maker.get(ways.pop())
            if maker is not None and maker.op_type in ("Cos", "Sin"):
                return bool(maker.op_type == "Cos")
            ways += [] if maker is None else maker.input[:1]
        raise AssertionError(f"{name} is no angle")

    def _type(self, name: str) -> int:
        known = self._info.get(name)
        return 0 if known is None else known.type.tensor_type.elem_type


def _casts_to(node: NodeProto, kind: int) -> bool:
    return bool(node.op_type == "Cast" and attribute(node, "to", 0) == kind)


def _note(graph: GraphProto, name: str, like: ValueInfoProto, kind: int) -> None:
    """Record the type `kind` and the shape of a new value, that of `like`."""
    graph.value_info.append(helper.make_tensor_value_info(name, kind, shape_of(like)))
