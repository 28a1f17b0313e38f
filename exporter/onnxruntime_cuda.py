"""Rewrite a graph to the operators for which ONNX Runtime's CUDA provider has fast kernels.

Its kernel of ONNX's Attention runs flash attention only where no mask is given (fp16 or bf16, from
compute capability 8.0 on); with a mask it falls back to slower kernels, and to one that stores all
scores when the row's length is no multiple of 4 (onnxruntime/core/providers/cuda/llm/attention.cc,
release 1.31). Opset 24 has the number of keys of each row as an input instead of a mask: so rows
are rotated until their padding is at the end. A causal model does that itself, and its rows need no
lengths. The kernel also expects heads in the layout of the linear layers, and would transpose
others back.

Nothing may need cuDNN, a gigabyte that is loaded when the first kernel asks for it: the least and
the greatest of integers are found by sorting; sums over the tokens and patches become products.

A sum with its norm becomes one of ONNX Runtime's own operators, in float32: the half-precision
ones have overflowed in the past (github.com/microsoft/onnxruntime/issues/29034).
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    helper,
    numpy_helper,
    parser,
)

from exporter.errors import ExportError
from exporter.graph_edits import Making, attribute, drop_unread, replace, shape_of
from exporter.lean import save_bytes
from exporter.packing import pack_tokens
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
_HEAD_RANK = 4  # of values [batch, heads, rows, size]
_ONE = "ends.one"  # how many of the sorted values are taken, int64 [1]
_HEADS_MOVED = [0, 2, 1, 3]
# Which place each token of a row moves to, and how many real ones there are. The output of Shape
# is on the host; only Range reads it there. Whatever else needs the length takes it from the
# places, because captured CUDA graphs allow no copies to the device.
_ROTATION = """
rotation (int64[batch, sequence] attention_mask) => (int64[batch] rows_lengths)
<
    int64 rows_begin = {0}, int64 rows_step = {1}, int64 rows_none = {0}, int64 rows_one = {1},
    int64[1] rows_axis = {1}, int64[1] rows_end = {-1}, int64[1] rows_least = {1}
>
{
    rows_shape = Shape <start = 1, end = 2> (attention_mask)
    rows_length = Squeeze (rows_shape)
    rows_places = Range (rows_begin, rows_length, rows_step)
    rows_last = Gather (rows_places, rows_end)
    rows_real = Cast <to = 9> (attention_mask)
    rows_candidates = Where (rows_real, rows_places, rows_last)
    rows_first, rows_at = TopK <axis = 1, largest = 0> (rows_candidates, rows_least)
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


def adapt(directory: Path, *, lean: bool = False, packed: bool = False) -> None:
    """Rewrite model.onnx of `directory`, and vision.onnx if there is one, which is neither `lean`
    nor `packed`; external weights are unchanged."""
    for name in (MODEL_FILE, VISION_FILE):
        path, text = directory / name, name == MODEL_FILE
        if path.is_file():
            model = onnx.load(path, load_external_data=False)
            use_fast_kernels(model, lean=lean and text, packed=packed and text)
            onnx.save(model, path)


def use_fast_kernels(model: ModelProto, *, lean: bool = False, packed: bool = False) -> None:
    """Rewrite attention and norms of `model`, at opset 23, in place; it is at opset 24 then.

    Attention with more than a padding mask is unchanged. For `lean` and `packed` see exporter.lean
    and exporter.packing.
    """
    if [(one.domain, one.version) for one in model.opset_import] != [("", OPSET - 1)]:
        raise ExportError(f"found opset {model.opset_import}, wanted {OPSET - 1} and no other")
    graph = _Graph(model.graph)
    changed = [graph.drop_mask(node) for node in model.graph.node]
    for node in model.graph.node:
        graph.join_sum(node)
        graph.sort_for_extreme(node)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.int64), _ONE))
    for change in (graph.patches, graph.weighted_sum, graph.length, graph.with_batch):
        replace(model.graph, change)
    if packed or any(changed):
        _rotate_rows(model.graph)
    drop_unread(model.graph)
    if lean:
        save_bytes(model.graph)
    if packed:
        pack_tokens(model.graph)
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
        self._constants = {i.name: i for i in graph.initializer}
        self._added = graph.initializer
        self._shapes = {v.name: shape_of(v) for v in (*graph.value_info, *graph.input)}

    def drop_mask(self, node: NodeProto) -> bool:
        """Replace an Attention node's mask by row lengths; False if it must keep the mask.

        A causal node has no mask, and padding behind its rows: it needs no lengths either."""
        causal = attribute(node, "is_causal", 0) == 1 and len(node.input) == 3
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
        if total is None or total.op_type != "Add" or attribute(node, "axis", -1) != -1:
            return
        shapes = [self._shapes.get(name) for name in total.input]
        if None in shapes or shapes[0] != shapes[1]:
            return
        epsilon = attribute(node, "epsilon", 1e-5)
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

    def sort_for_extreme(self, node: NodeProto) -> None:
        """Replace the least or greatest along one axis by the first in order, the same value: the
        provider reduces integers by cuDNN, and sorts them itself."""
        largest = {"ReduceMax": 1, "ReduceMin": 0}.get(node.op_type)
        axes = self._axes(node)
        if largest is None or len(axes) != 1 or not attribute(node, "keepdims", 1):
            return
        outputs = [node.output[0], f"{node.output[0]}.place"]
        inputs = [node.input[0], _ONE]
        node.CopyFrom(helper.make_node("TopK", inputs, outputs, axis=axes[0], largest=largest))

    def patches(self, node: NodeProto) -> list[NodeProto]:
        """A convolution of patches side by side as a product: the provider convolves by cuDNN."""
        if node.op_type != "Conv" or attribute(node, "group", 1) != 1:
            return [node]
        (pixels, weight, *bias), name = node.input, node.output[0]
        kernel = list(self._constants[weight].dims)
        channels, rows, columns = (int(size) for size in self._shapes[pixels][1:])
        height, width = kernel[2:]
        uneven = rows % height or columns % width
        pads = attribute(node, "pads", [0] * 4)
        if attribute(node, "strides", []) != [height, width] or pads != [0] * 4 or uneven:
            return [node]
        down, across = rows // height, columns // width
        made = Making(name, self._added)
        cut = made("Reshape", pixels, made.sizes(0, channels, down, height, across, width))
        cut = made("Transpose", cut, perm=[0, 2, 4, 1, 3, 5])
        cut = made("Reshape", cut, made.sizes(0, down, across, channels * height * width))
        # In the graph: the weights may be in the file beside it.
        matrix = made("Reshape", weight, made.sizes(kernel[0], -1))
        found = made("MatMul", cut, made("Transpose", matrix, perm=[1, 0]))
        if bias:
            found = made("Add", found, bias[0])
        made("Transpose", found, perm=[0, 3, 1, 2], to=name)
        return made.nodes

    def weighted_sum(self, node: NodeProto) -> list[NodeProto]:
        """A sum of states [batch, sequence, size], weighted by a value a token, as a product.
        The provider sums along an axis in the middle by cuDNN."""
        if node.op_type != "ReduceSum" or self._axes(node) != [1]:
            return [node]
        product = self._maker.get(node.input[0])
        if product is None or product.op_type != "Mul":
            return [node]
        for states, spread in (product.input, product.input[::-1]):
            last = self._maker.get(spread)
            if last is None or last.op_type != "Unsqueeze" or self._axes(last) not in ([2], [-1]):
                continue
            made = Making(node.output[0], self._added)
            weights = made("Unsqueeze", last.input[0], made.sizes(1))
            if attribute(node, "keepdims", 1):
                made("MatMul", weights, states, to=node.output[0])
            else:
                total = made("MatMul", weights, states)
                made("Squeeze", total, made.sizes(1), to=node.output[0])
            return made.nodes
        return [node]

    def length(self, node: NodeProto) -> list[NodeProto]:
        """The length of vectors by its definition, of which the provider has all kernels."""
        if node.op_type != "ReduceL2":
            return [node]
        vectors, *axes = node.input
        made = Making(node.output[0], self._added)
        squares = made("Mul", vectors, vectors)
        total = made("ReduceSum", squares, *axes, keepdims=attribute(node, "keepdims", 1))
        made("Sqrt", total, to=node.output[0])
        return made.nodes

    def with_batch(self, node: NodeProto) -> list[NodeProto]:
        """A product of which one factor is the same for all rows, with that factor repeated.

        The provider would hand cuBLAS the addresses of all matrices in a buffer of the host that it
        gives back after the call: a replayed CUDA graph would read whatever is there then."""
        if node.op_type != "MatMul":
            return [node]
        batches = [self._shapes.get(name, [None])[0] for name in node.input]
        ranks = {len(self._shapes.get(name, [])) for name in node.input}
        if ranks != {_HEAD_RANK} or batches.count(1) != 1:
            return [node]
        place = batches.index(1)
        made = Making(f"{node.output[0]}.batch", self._added)
        batch = made("Shape", node.input[1 - place], start=0, end=1)
        sizes = made("Concat", batch, made.sizes(1, 1, 1), axis=0)
        node.input[place] = made("Expand", node.input[place], sizes)
        return [*made.nodes, node]

    def _before_moving(self, name: str) -> str | None:
        """The value [batch, sequence, heads × size] that Reshape and Transpose made `name` of."""
        moving = self._maker.get(name)
        if moving is None or moving.op_type != "Transpose":
            return None
        parting = self._maker.get(moving.input[0])
        if parting is None or parting.op_type != "Reshape":
            return None
        return parting.input[0] if attribute(moving, "perm", []) == _HEADS_MOVED else None

    def _axes(self, node: NodeProto) -> list[int]:
        """The constant axes of a reduction; none where they are not known."""
        constant = self._constants.get(node.input[1]) if len(node.input) > 1 else None
        return [] if constant is None else numpy_helper.to_array(constant).tolist()

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
    turned = {i.name: f"rows_{i.name}" for i in graph.input if len(shape_of(i)) == _TOKEN_AXES}
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
