"""Computing no padding outside attention, in a graph for ONNX Runtime's CUDA provider.

One more input, `token_places` int64 [tokens], names the tokens that are computed: their places in
the flattened batch. Products, norms and activations then run on [1, tokens, size]; only attention,
and whatever else looks across tokens, gets [batch, sequence, size] back. There the places of
padding hold the states of their own row's first token: attention does not see them, and pooling
gives them the weight 0. Of another row's they must not be: 0 × NaN would carry it over.

Every real token must be named, and none twice. All places of the batch may be: a captured CUDA
graph has one number of tokens.
"""

from math import gcd

from onnx import (
    GraphProto,
    NodeProto,
    ValueInfoProto,
    parser,
)

from exporter.errors import ExportError
from exporter.graph_edits import Making, drop_unread, shape_of
from runtime.shapes import PLACES_INPUT

_PADDED = ["batch", "sequence"]
# Of packed values; the axis of rows has one.
_TOKENS = "tokens"
# Always computed for the named tokens alone. A product only if its second factor is a weight.
_LINEAR = frozenset(
    """
    Concat LayerNormalization MatMul RMSNormalization RotaryEmbedding SkipLayerNormalization
    SkipSimplifiedLayerNormalization
    """.split()
)
# Computed where their inputs are: value by value, or along the last axis. Reshapes that keep the
# tokens, and the shape of a packed value, are those of the packed one.
_ELEMENTWISE = frozenset(
    "Add BiasGelu Cast Concat Gelu GatedRMSNorm Mul Relu Reshape Shape Sigmoid Split Sub".split()
)
# `rows_first` and `rows_last` are of the rotation of rows in `onnxruntime_cuda`, so places are
# turned as it turns them. pack_index int64 [1, tokens] are places in the turned batch; unpack_index
# int64 [batch, sequence] says which of the computed tokens stands where. In padding it is
# the first one of the same row: turned rows begin with a real token.
_INDEX = f"""
index (int64[tokens] {PLACES_INPUT}, int64[batch, sequence] attention_mask,
    int64[batch, 1] rows_first, int64[1] rows_last)
    => (int64[1, tokens] pack_index, int64[batch, sequence] unpack_index)
<
    int64[1] pack_one = {{1}}, int64[1] pack_flat = {{-1}}, int64[1] pack_axis = {{0}},
    int64 pack_begin = {{0}}, int64 pack_step = {{1}}
>
{{
    pack_length = Add (rows_last, pack_one)
    pack_row = Div ({PLACES_INPUT}, pack_length)
    pack_firsts = Reshape (rows_first, pack_flat)
    pack_first = Gather (pack_firsts, pack_row)
    pack_from = Sub ({PLACES_INPUT}, pack_first)
    pack_column = Mod (pack_from, pack_length)
    pack_start = Mul (pack_row, pack_length)
    pack_places = Add (pack_start, pack_column)
    pack_index = Unsqueeze (pack_places, pack_axis)
    pack_size = Shape ({PLACES_INPUT})
    pack_count = Squeeze (pack_size)
    pack_numbers = Range (pack_begin, pack_count, pack_step)
    pack_zeros = Sub (attention_mask, attention_mask)
    pack_nothing = Sub (pack_zeros, pack_one)
    pack_nowhere = Reshape (pack_nothing, pack_flat)
    pack_found = ScatterElements <axis = 0> (pack_nowhere, pack_places, pack_numbers)
    pack_shape = Shape (attention_mask)
    pack_rows = Reshape (pack_found, pack_shape)
    pack_begins = Gather <axis = 1> (pack_rows, pack_axis)
    pack_padding = Less (pack_rows, pack_begin)
    unpack_index = Where (pack_padding, pack_begins, pack_rows)
}}
"""


def pack_tokens(graph: GraphProto) -> None:
    """Rewrite `graph`, whose rows are rotated by `onnxruntime_cuda`, in place."""
    index = parser.parse_graph(_INDEX)
    graph.input.append(index.input[0])
    graph.initializer.extend(index.initializer)
    _Packing(graph, list(index.node)).apply()
    drop_unread(graph)


class _Packing:
    """Which values are packed, and the way there and back."""

    def __init__(self, graph: GraphProto, index: list[NodeProto]) -> None:
        self._graph = graph
        self._index = index
        self._maker = {name: node for node in graph.node for name in node.output}
        self._info = {v.name: v for v in graph.value_info}
        self._packed: set[str] = set()  # values that there are packed only
        self._ways: dict[str, str] = {}  # what was packed or unpacked: its other name
        self._chunks: dict[tuple[int, int, int], str] = {}
        self._nodes: list[NodeProto] = []

    def apply(self) -> None:
        """Change the graph."""
        before = self._graph.node[:]
        places = [place for place, node in enumerate(before) if "rows_first" in node.output]
        if not places:
            raise ExportError("found a graph whose rows are not rotated, wanted one that is")
        for place, node in enumerate(before):
            self._rewrite(node)
            self._nodes.append(node)
            if place == places[0]:
                self._nodes += self._index
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)

    def _rewrite(self, node: NodeProto) -> None:
        tokens = [self._is_padded(name) or name in self._packed for name in node.input]
        linear = node.op_type in _LINEAR and tokens[:1] == [True]
        if node.op_type == "MatMul":
            linear = linear and not tokens[1]
        follows = node.op_type in _ELEMENTWISE and not self._packed.isdisjoint(node.input)
        if not linear and not (follows and self._keeps_tokens(node)):
            node.input[:] = [
                self._unpack(name) if name in self._packed else name for name in node.input
            ]
            return
        node.input[:] = [self._pack(name) if self._is_padded(name) else name for name in node.input]
        for name in filter(None, node.output):
            self._packed.add(name)
            if self._is_padded(name, produced=True):
                _repack(self._info[name])

    def _is_padded(self, name: str, *, produced: bool = False) -> bool:
        """Whether `name` has a value for each place of the batch."""
        if name in self._packed and not produced:
            return False
        shape = shape_of(self._info[name]) if name in self._info else []
        return shape[:2] == _PADDED and len(shape) > len(_PADDED)

    def _keeps_tokens(self, node: NodeProto) -> bool:
        """Whether `node` is computed for packed values as it is; the shape of a Reshape is put into
        terms of its input for that."""
        if node.op_type != "Reshape" or not self._is_padded(node.output[0]):
            return True
        # Not of a new node, whose output has no recorded shape.
        inner = shape_of(self._info[node.output[0]])[2:]
        if not all(isinstance(size, int) for size in inner):
            return False
        made = Making(f"{node.output[0]}.kept", self._graph.initializer)
        node.input[1] = made.sizes(0, 0, *map(int, inner))
        del node.attribute[:]
        return True

    def _pack(self, name: str) -> str:
        """The named tokens of `name` [batch, sequence, …]: [1, tokens, …]."""
        if name not in self._ways:
            made = Making(f"{name}.packed", self._graph.initializer)
            flat = made("Reshape", name, made.sizes(-1, *self._inner(name)))
            self._ways[name] = made("Gather", flat, "pack_index", axis=0)
            self._nodes += made.nodes
        return self._ways[name]

    def _unpack(self, name: str) -> str:
        """`name` [1, tokens, …] as [batch, sequence, …]."""
        if name not in self._ways:
            made = Making(f"{name}.unpacked", self._graph.initializer)
            split = self._maker[name]
            if split.op_type == "Split":
                self._ways[name] = self._unpack_part(name, split, made)
            else:
                flat = made("Reshape", name, made.sizes(-1, *self._inner(name)))
                self._ways[name] = made("Gather", flat, "unpack_index", axis=0)
            self._nodes += made.nodes
        return self._ways[name]

    def _unpack_part(self, name: str, split: NodeProto, made: Making) -> str:
        """Part of a split value, out of the whole one: both in one kernel."""
        sizes = [self._inner(part)[-1] for part in split.output]
        place, chunk = list(split.output).index(name), gcd(*sizes)
        first, count = sum(sizes[:place]) // chunk, sizes[place] // chunk
        flat = made("Reshape", split.input[0], made.sizes(-1, chunk))
        index = self._chunk_index(sum(sizes) // chunk, first, count)
        found = made("Gather", flat, index, axis=0)
        return made("Reshape", found, made.sizes(0, 0, sizes[place]))

    def _chunk_index(self, every: int, first: int, count: int) -> str:
        """int64 [batch, sequence, count]: where the chunks of each place are, of tokens that have
        `every` chunks each."""
        key = every, first, count
        if key not in self._chunks:
            made = Making("unpack_index." + ".".join(map(str, key)), self._graph.initializer)
            starts = made("Mul", "unpack_index", made.sizes(every))
            starts = made("Unsqueeze", starts, made.sizes(2))
            self._chunks[key] = made("Add", starts, made.sizes(*range(first, first + count)))
            self._nodes += made.nodes
        return self._chunks[key]

    def _inner(self, name: str) -> list[int]:
        return [int(size) for size in shape_of(self._info[name])[2:]]


def _repack(info: ValueInfoProto) -> None:
    """Record that a value is packed."""
    rows, tokens = info.type.tensor_type.shape.dim[:2]
    rows.Clear()
    rows.dim_value = 1
    tokens.dim_param = _TOKENS
