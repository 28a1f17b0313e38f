"""Rewrite a graph to the operators for which ONNX Runtime's CUDA provider has fast kernels.

Its kernel of ONNX's Attention runs flash attention only where no mask is given (fp16 or bf16, from
compute capability 8.0 on); with a mask it falls back to slower kernels, and to one that stores all
scores when the row's length is no multiple of 4 (onnxruntime/core/providers/cuda/llm/attention.cc,
release 1.31). Opset 24 has the number of keys of each row as an input instead of a mask: so rows
are rotated until their padding is at the end. A causal model does that itself, and its rows need no
lengths. The kernel also expects heads in the layout of the linear layers, and would transpose
others back.

A sum with its norm becomes one of ONNX Runtime's own operators, in float32: the half-precision
ones have overflowed in the past (github.com/microsoft/onnxruntime/issues/29034).
"""

from collections import defaultdict
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, parser

from exporter.errors import ExportError
from runtime.engines import MODEL_FILE, VISION_FILE

OPSET = 24
CONTRIB = "com.microsoft"
_NORMS = {
    "RMSNormalization": "SkipSimplifiedLayerNormalization",
    "LayerNormalization": "SkipLayerNormalization",
}
# A mask computed with these operators alone is a padding mask. Windows and causal masks need other
# comparisons than Equal.
_PLAIN_MASK = frozenset(
    "Cast Concat Constant Equal Expand Or Range Shape Squeeze Unsqueeze".split()
)
_TOKEN_AXES = 2
_HEADS_MOVED = [0, 2, 1, 3]
# Which place each token of a row moves to, and how many real ones there are. The output of Shape
# is on the host; only Range reads it there. Whatever else needs the length takes it from the
# places, because captured CUDA graphs allow no copies to the device.
_ROTATION = """
rotation (int64[batch, sequence] attention_mask) => (int64[batch] rows_lengths)
<
    int64 rows_begin = {0}, int64 rows_step = {1}, int64 rows_none = {0}, int64 rows_one = {1},
    int64[1] rows_axis = {1}, int64[1] rows_all = {0}
>
{
    rows_shape = Shape <start = 1, end = 2> (attention_mask)
    rows_length = Squeeze (rows_shape)
    rows_places = Range (rows_begin, rows_length, rows_step)
    rows_last = ReduceMax <keepdims = 1> (rows_places, rows_all)
    rows_real = Cast <to = 9> (attention_mask)
    rows_candidates = Where (rows_real, rows_places, rows_last)
    rows_first = ReduceMin <keepdims = 1> (rows_candidates, rows_axis)
    rows_far = Add (rows_places, rows_first)
    rows_inside = LessOrEqual (rows_far, rows_last)
    rows_beyond = Sub (rows_far, rows_last)
    rows_near = Sub (rows_beyond, rows_one)
    rows_order = Where (rows_inside, rows_far, rows_near)
    rows_count = ReduceSum <keepdims = 0> (attention_mask, rows_axis)
    rows_empty = LessOrEqual (rows_count, rows_none)
    rows_lengths = Where (rows_empty, rows_one, rows_count)
}
"""


def adapt(directory: Path) -> None:
    """Rewrite model.onnx of `directory`, and vision.onnx if there is one; external weights are
    unchanged."""
    for path in (directory / MODEL_FILE, directory / VISION_FILE):
        if path.is_file():
            model = onnx.load(path, load_external_data=False)
            use_fast_kernels(model)
            onnx.save(model, path)


def use_fast_kernels(model: ModelProto) -> None:
    """Rewrite attention and norms of `model`, at opset 23, in place; it is at opset 24 then.

    Attention with more than a padding mask is unchanged.
    """
    if [(one.domain, one.version) for one in model.opset_import] != [("", OPSET - 1)]:
        raise ExportError(f"found opset {model.opset_import}, wanted {OPSET - 1} and no other")
    graph = _Graph(model.graph)
    changed = [graph.drop_mask(node) for node in model.graph.node]
    for node in model.graph.node:
        graph.join_sum(node)
    if any(changed):
        _rotate_rows(model.graph)
    _drop_unread(model.graph)
    model.opset_import[0].version = OPSET
    model.opset_import.append(helper.make_opsetid(CONTRIB, 1))


class _Graph:
    """The original graph, and changes of single nodes."""

    def __init__(self, graph: GraphProto) -> None:
        self._maker = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)
        self._shapes = {v.name: _shape(v) for v in graph.value_info}

    def drop_mask(self, node: NodeProto) -> bool:
        """Replace an Attention node's mask by row lengths; False if it must keep the mask.

        A causal node has no mask, and padding behind its rows: it needs no lengths either."""
        causal = _attribute(node, "is_causal", 0) == 1 and len(node.input) == 3
        if node.op_type != "Attention" or not (causal or len(node.input) == 4):
            return False
        moved = [self._before_moving(name) for name in node.input[:3]]
        result = self._after_moving(node.output[0])
        masked = not causal and not self._ancestors(node.input[3]) <= _PLAIN_MASK
        if result is None or None in moved or masked:
            return False
        heads = [self._shapes[name][1] for name in node.input[:2]]
        # Neither mask nor past keys and values; the last is nonpad_kv_seqlen.
        lengths = [] if causal else ["", "", "", "rows_lengths"]
        node.input[:] = [*(name for name in moved if name), *lengths]
        node.output[0] = result.output[0]
        result.output[0] += ".moved"  # no longer read
        node.attribute.append(helper.make_attribute("q_num_heads", heads[0]))
        node.attribute.append(helper.make_attribute("kv_num_heads", heads[1]))
        return not causal

    def join_sum(self, node: NodeProto) -> None:
        """Fuse a norm with the sum that it reads into one node with both outputs."""
        total = self._maker.get(node.input[0]) if node.op_type in _NORMS else None
        if total is None or total.op_type != "Add" or _attribute(node, "axis", -1) != -1:
            return
        shapes = [self._shapes.get(name) for name in total.input]
        if None in shapes or shapes[0] != shapes[1]:
            return
        epsilon = _attribute(node, "epsilon", 1e-5)
        name = total.output[0]
        joined = helper.make_node(
            _NORMS[node.op_type],
            [*total.input, *node.input[1:]],
            [node.output[0], "", "", name],
            domain=CONTRIB,
            epsilon=epsilon,
        )
        total.output[0] = f"{name}.apart"  # no longer read
        node.CopyFrom(joined)

    def _before_moving(self, name: str) -> str | None:
        """The value [batch, sequence, heads × size] that Reshape and Transpose made `name` of."""
        moving = self._maker.get(name)
        if moving is None or moving.op_type != "Transpose":
            return None
        parting = self._maker.get(moving.input[0])
        if parting is None or parting.op_type != "Reshape":
            return None
        return parting.input[0] if _attribute(moving, "perm", []) == _HEADS_MOVED else None

    def _after_moving(self, name: str) -> NodeProto | None:
        """The Reshape that joins the heads of `name` again, behind a Transpose."""
        for op_type in ("Transpose", "Reshape"):
            readers = self._readers[name]
            if len(readers) != 1 or readers[0].op_type != op_type:
                return None
            name = readers[0].output[0]
        return readers[0]

    def _ancestors(self, name: str) -> set[str]:
        """Types of all nodes that `name` is computed with."""
        found: set[str] = set()
        ways, seen = [name], {name}
        while ways:
            maker = self._maker.get(ways.pop())
            if maker is not None:
                found.add(maker.op_type)
                ways += [one for one in maker.input if one not in seen]
                seen.update(maker.input)
        return found


def _rotate_rows(graph: GraphProto) -> None:
    """Rotate rows so that they begin with a real token, and give attention their lengths.

    Left padding then is at the end. A row without any real token counts as one token: its output is
    finite and not used.
    """
    rotation = parser.parse_graph(_ROTATION)
    graph.initializer.extend(rotation.initializer)
    # What has no token axis, such as embeddings of images, stays.
    turned = {i.name: f"rows_{i.name}" for i in graph.input if len(_shape(i)) == _TOKEN_AXES}
    nodes = list(rotation.node)
    nodes += [
        helper.make_node("GatherElements", [name, "rows_order"], [new], axis=1)
        for name, new in turned.items()
    ]
    for node in graph.node:
        node.input[:] = [turned.get(name, name) for name in node.input]
    old = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *old])


def _drop_unread(graph: GraphProto) -> None:
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


def _shape(value: ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def _attribute(node: NodeProto, name: str, default: object) -> object:
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else helper.get_attribute_value(found)
