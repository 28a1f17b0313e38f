"""Chunked attention for long rows, which limits its memory.

ONNX Runtime's CPU kernel stores heads × queries × keys numbers: 9 GB for one row of 8192 tokens of
the 1B model. Queries are independent of each other, so chunks of queries give the same answer; of a
causal model each needs the keys up to its end alone. Shorter rows are computed at once.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from exporter.workspace import link_or_copy
from runtime.manifest import MODEL_FILE

# Rows up to this many tokens are computed at once: at 32 heads half a gigabyte.
LONG_ROW_TOKENS = 2048
_CHUNKS = 16
# Prefix of the values that the If nodes need.
_PREFIX = "long."


def chunk_attention(directory: Path) -> None:
    """Rewrite model.onnx of `directory`; its external weights are unchanged."""
    path = directory / MODEL_FILE
    model = onnx.load(path, load_external_data=False)
    chunk_model(model)
    onnx.save(model, path)


@contextmanager
def chunked_copy(directory: Path, within: Path | None = None) -> Iterator[Path]:
    """A temporary copy of the artifact with chunked attention: it proves a GPU's graph on the CPU.

    Files are linked if possible. The copy is `within` a directory, which may be `directory`; None:
    the system's directory for temporary files.
    """
    with tempfile.TemporaryDirectory(dir=within) as name:
        copy = Path(name)
        others = shutil.ignore_patterns(copy.name)
        shutil.copytree(
            directory, copy, ignore=others, copy_function=link_or_copy, dirs_exist_ok=True
        )
        # The only file that is rewritten.
        (copy / MODEL_FILE).unlink()
        shutil.copyfile(directory / MODEL_FILE, copy / MODEL_FILE)
        chunk_attention(copy)
        yield copy


def unchunk_attention(directory: Path) -> None:
    """Undo `chunk_attention`, for steps that read the graph; other graphs are unchanged."""
    path = directory / MODEL_FILE
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    nodes = [_unwrapped(node) for node in graph.node if not node.output[0].startswith(_PREFIX)]
    kept = [tensor for tensor in graph.initializer if not tensor.name.startswith(_PREFIX)]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    onnx.save(model, path)


def _unwrapped(node: NodeProto) -> NodeProto:
    """The Attention node inside the If node of `_choice`, else a copy of `node`."""
    if node.op_type != "If" or not node.input[0].startswith(f"{_PREFIX}is."):
        return deepcopy(node)
    branches = {attribute.name: attribute.g for attribute in node.attribute}
    found: NodeProto = deepcopy(branches["else_branch"].node[0])
    found.output[0] = node.output[0]
    return found


def chunk_model(model: ModelProto) -> None:
    """Wrap every Attention node in an If node: at once, or in _CHUNKS chunks of queries.

    Nodes with neither a mask row for each query nor the causal form without a mask are unchanged.
    """
    graph = model.graph
    copies: list[NodeProto] = []
    for node in graph.node:
        split = node.op_type == "Attention" and _splits(node)
        copies += _choice(node) if split else [deepcopy(node)]
    if any(node.op_type == "If" for node in copies):
        copies = [*_measures(graph), *copies]
    del graph.node[:]
    graph.node.extend(copies)


def _splits(node: NodeProto) -> bool:
    masked = len(node.input) >= 4 and bool(node.input[3])
    return masked != _is_causal(node)


def _is_causal(node: NodeProto) -> bool:
    return any(a.name == "is_causal" and a.i for a in node.attribute)


def _measures(graph: GraphProto) -> list[NodeProto]:
    """Nodes that give `long.step` (int64 [1], queries in a chunk) and `long.places` (int64
    [sequence])."""
    for name, value in (
        ("long.limit", np.asarray(LONG_ROW_TOKENS, np.int64)),
        ("long.one", np.asarray([1], np.int64)),
        ("long.round", np.asarray([_CHUNKS - 1], np.int64)),
        ("long.pieces", np.asarray([_CHUNKS], np.int64)),
        ("long.axis", np.asarray([2], np.int64)),
        ("long.scalar", np.asarray([], np.int64)),
        ("long.zero", np.asarray(0, np.int64)),
        ("long.unit", np.asarray(1, np.int64)),
        ("long.rows", np.asarray([0], np.int64)),
    ):
        graph.initializer.append(numpy_helper.from_array(value, name))
    make = helper.make_node
    return [
        make("Shape", [graph.input[0].name], ["long.shape"]),
        make("Gather", ["long.shape", "long.one"], ["long.length"]),
        make("Reshape", ["long.length", "long.scalar"], ["long.count"]),
        make("Add", ["long.length", "long.round"], ["long.raised"]),
        make("Div", ["long.raised", "long.pieces"], ["long.step"]),
        make("Range", ["long.zero", "long.count", "long.unit"], ["long.places"]),
    ]


def _choice(node: NodeProto) -> list[NodeProto]:
    """Nodes that measure the queries, which may be those of the pooled tokens alone, and choose."""
    result = node.output[0]
    queries, many = f"{_PREFIX}queries.{result}", f"{_PREFIX}is.{result}"
    at_once = deepcopy(node)
    at_once.output[0] = f"{result}.whole"
    return [
        helper.make_node("Shape", [node.input[0]], [queries], start=2, end=3),
        helper.make_node("Greater", [queries, "long.limit"], [many]),
        helper.make_node(
            "If",
            [many],
            [result],
            then_branch=_branch(_chunks(node), f"{result}.pieces"),
            else_branch=_branch([at_once], f"{result}.whole"),
        ),
    ]


def _chunks(node: NodeProto) -> list[NodeProto]:
    result = node.output[0]
    make = helper.make_node
    nodes = []
    for i in range(_CHUNKS + 1):
        number, bound = f"{result}.number.{i}", f"{result}.bound.{i}"
        value = numpy_helper.from_array(np.asarray([i], np.int64))
        nodes += [
            make("Constant", [], [number], value=value),
            make("Mul", ["long.step", number], [bound]),
        ]
    for i in range(_CHUNKS):
        bounds = [f"{result}.bound.{i}", f"{result}.bound.{i + 1}", "long.axis"]
        query, mask, piece = (f"{result}.{part}.{i}" for part in ("query", "mask", "piece"))
        attention = deepcopy(node)
        attention.name = piece
        nodes.append(make("Slice", [node.input[0], *bounds], [query]))
        if _is_causal(node):
            keys, values = f"{piece}.keys", f"{piece}.values"
            seen = ["long.rows", bounds[1], "long.axis"]  # those before the chunk's end
            nodes += [
                make("Slice", [node.input[1], *seen], [keys]),
                make("Slice", [node.input[2], *seen], [values]),
                *_causal_mask(bounds, mask),
            ]
            attention.input[:] = [query, keys, values, mask]
            plain = [a for a in attention.attribute if a.name != "is_causal"]
            del attention.attribute[:]
            attention.attribute.extend(plain)
        else:
            nodes.append(make("Slice", [node.input[3], *bounds], [mask]))
            attention.input[0], attention.input[3] = query, mask
        attention.output[0] = piece
        nodes.append(attention)
    parts = [f"{result}.piece.{i}" for i in range(_CHUNKS)]
    return [*nodes, make("Concat", parts, [f"{result}.pieces"], axis=2)]


def _causal_mask(bounds: list[str], mask: str) -> list[NodeProto]:
    """Nodes that give the `mask` of a chunk of queries, bool [queries, keys up to their end]."""
    make = helper.make_node
    begin, end = bounds[:2]
    here, there, row = f"{mask}.here", f"{mask}.there", f"{mask}.row"
    return [
        make("Slice", ["long.places", begin, end, "long.rows"], [here]),
        make("Slice", ["long.places", "long.rows", end, "long.rows"], [there]),
        make("Unsqueeze", [here, "long.one"], [row]),
        make("LessOrEqual", [there, row], [mask]),
    ]


def _branch(nodes: list[NodeProto], output: str) -> GraphProto:
    # No type is declared: it is the node's, which is not float32 in half precision.
    return helper.make_graph(nodes, output, [], [ValueInfoProto(name=output)])
