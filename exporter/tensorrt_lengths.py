"""Attention that is told the lengths of rows instead of a mask, for TensorRT 11.1 and later.

A mask is an array of all pairs of tokens, which its kernels read. TensorRT 11's IAttention also
takes how many keys each row has (`setKeyValueLengths`, NvInfer.h), to which ONNX's parser leads by
an operator of its own, TRT_Attention (onnx-tensorrt, docs/TRT_custom_ops.md, release 11.1): queries
and keys come scaled, and padding is behind the tokens, so rows are turned first.

The parser takes its own operator before a function of the same name, so the graph brings one: what
TRT_Attention means in ONNX's own operators. Engines that do not know it compute that, by which a
CPU proves the graph.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper, parser
from torch import Tensor, nn

from exporter.architectures.base import Architecture
from exporter.architectures.pooling import padding_behind

OPERATOR, DOMAIN = "TRT_Attention", "trt"
_LENGTHS = "rows_lengths"
# Operators that compute a padding mask from turned tokens. Windows need other comparisons.
_PADDING = frozenset("Cast Concat Constant Equal Expand Or Range Shape Squeeze Unsqueeze".split())
_TOKEN_AXES = 2
_ROWS = f"""
rows (int64[batch, sequence] attention_mask) => (int32[batch] lengths)
<int64[1] rows_axis = {{1}}, int64 rows_least = {{1}}>
{{
    rows_count = ReduceSum <keepdims = 0> (attention_mask, rows_axis)
    rows_real = Max (rows_count, rows_least)
    {_LENGTHS} = Cast <to = 6> (rows_real)
}}
"""
# Keys in front of a row's length are seen by all queries.
_MEANING = f"""
<opset_import: ["" : 23], domain: "{DOMAIN}">
{OPERATOR} (query, key, value, mask, query_lengths, lengths) => (result)
{{
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    spread = Constant <value_ints = [1, 2, 3]> ()
    rows = Shape <start = 0, end = 1> (query)
    single = Constant <value_ints = [1]> ()
    asking = Shape <start = 2, end = 3> (query)
    asked = Shape <start = 2, end = 3> (key)
    keys = Squeeze (asked)
    places = Range (zero, keys, one)
    wide = Cast <to = 7> (lengths)
    behind = Unsqueeze (wide, spread)
    inside = Less (places, behind)
    shape = Concat <axis = 0> (rows, single, asking, asked)
    seen = Expand (inside, shape)
    result = Attention <scale = 1.0> (query, key, value, seen)
}}
"""


class TurnedRows(nn.Module):
    """`model` behind inputs whose rows are turned until their padding is at the end."""

    def __init__(self, model: Architecture) -> None:
        super().__init__()
        self.model = model
        self.inputs, self.output = model.inputs, model.output

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        third: Tensor | None = None,
        fourth: Tensor | None = None,
    ) -> Tensor:
        """As the model's, one by one: torch.export names no axes of several in one. What has no
        token axis, such as embeddings of images, stays."""
        more = [one for one in (third, fourth) if one is not None]
        tokens = [one for one in more if one.dim() == _TOKEN_AXES]
        ids, mask, *turned = padding_behind(input_ids, attention_mask, *tokens)
        ways = iter(turned)
        rest = [next(ways) if one.dim() == _TOKEN_AXES else one for one in more]
        found: Tensor = self.model(ids, mask, *rest)
        return found


def adapt(path: Path) -> int:
    """Rewrite the attention of the graph at `path`, whose rows are turned; external weights are
    unchanged. Returns how many nodes have lengths now; those with a window keep their mask."""
    model = onnx.load(path, load_external_data=False)
    changed = use_lengths(model)
    onnx.save(model, path)
    return changed


def use_lengths(model: ModelProto) -> int:
    """As `adapt`, of `model` in place."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    sizes = {value.name: value.type.tensor_type for value in graph.value_info}
    nodes: list[NodeProto] = []
    changed = 0
    for node in graph.node:
        if node.op_type == "Attention" and _is_padding(makers, node):
            nodes += _with_lengths(graph, node, sizes[node.input[0]])
            changed += 1
        else:
            nodes.append(node)
    if changed:
        rows = parser.parse_graph(_ROWS)
        graph.initializer.extend(rows.initializer)
        del graph.node[:]
        graph.node.extend([*rows.node, *nodes])
        model.functions.append(parser.parse_function(_MEANING))
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return changed


def _is_padding(makers: dict[str, NodeProto], attention: NodeProto) -> bool:
    """Whether the mask of `attention` hides padding and nothing else."""
    if len(attention.input) != 4:
        return False
    ways, seen = [attention.input[3]], set()
    while ways:
        maker = makers.get(ways.pop())
        if maker is None or maker.op_type == "GatherElements":  # the turned mask
            continue
        if maker.op_type not in _PADDING:
            return False
        ways += [name for name in maker.input if name not in seen]
        seen.update(maker.input)
    return True


def _with_lengths(
    graph: GraphProto, node: NodeProto, query: onnx.TypeProto.Tensor
) -> Iterator[NodeProto]:
    """The nodes that replace the attention `node`, whose queries are of the type `query`."""
    dtype = helper.tensor_dtype_to_np_dtype(query.elem_type)
    given = next((one.f for one in node.attribute if one.name == "scale"), 0.0)
    scale = given or 1 / math.sqrt(query.shape.dim[3].dim_value)
    # Both by the root, as the parser does of ONNX's own operator: no product leaves float16.
    root = f"{node.output[0]}.root"
    graph.initializer.append(numpy_helper.from_array(np.asarray(math.sqrt(scale), dtype), root))
    scaled = [f"{name}.scaled.{node.output[0]}" for name in node.input[:2]]
    for name, result in zip(node.input[:2], scaled, strict=True):
        yield helper.make_node("Mul", [name, root], [result])
    inputs = [*scaled, node.input[2], "", "", _LENGTHS]
    yield helper.make_node(OPERATOR, inputs, node.output, node.name, domain=DOMAIN)
