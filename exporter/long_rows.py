"""Attention of long rows in pieces, so that its memory stays bounded.

ONNX Runtime's CPU kernel keeps heads × queries × keys numbers: 9 GB for one row of 8192 tokens of
the 1B model. A query sees its keys alone, so that some queries at a time give the same answer.
Shorter rows go the direct way.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from exporter.workspace import link_or_copy
from runtime.manifest import MODEL_FILE

# Rows up to this many tokens are computed in one piece: at 32 heads half a gigabyte.
LONG = 2048
_PIECES = 16
# What the values begin with that a choice needs.
_PREFIX = "long."


def bound_attention(directory: Path) -> None:
    """Rewrite model.onnx of `directory`; weights beside it stay as they are."""
    path = directory / MODEL_FILE
    model = onnx.load(path, load_external_data=False)
    split_attention(model)
    onnx.save(model, path)


@contextmanager
def bounded_copy(directory: Path, within: Path | None = None) -> Iterator[Path]:
    """A temporary artifact whose attention is bounded, where that of `directory` is to stay as it
    is: a graph for a GPU that the CPU has to prove. Files are linked where that can be done.

    It lies `within` a directory, which may be `directory`; None: the system's for temporary files.
    """
    with tempfile.TemporaryDirectory(dir=within) as name:
        copy = Path(name)
        for path in directory.iterdir():
            if path.is_file():
                link_or_copy(path, copy / path.name)
            elif path.name != copy.name:
                shutil.copytree(path, copy / path.name, copy_function=link_or_copy)
        # The one file that is rewritten.
        (copy / MODEL_FILE).unlink()
        shutil.copyfile(directory / MODEL_FILE, copy / MODEL_FILE)
        bound_attention(copy)
        yield copy


def unbound_attention(directory: Path) -> None:
    """Undo `bound_attention`, for steps that read the graph; one without choices stays as it is."""
    path = directory / MODEL_FILE
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    nodes = [_whole(node) for node in graph.node if not node.output[0].startswith(_PREFIX)]
    kept = [tensor for tensor in graph.initializer if not tensor.name.startswith(_PREFIX)]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    onnx.save(model, path)


def _whole(node: NodeProto) -> NodeProto:
    """The Attention node that `_choice` made `node` of, else a copy of it."""
    found = NodeProto()
    found.CopyFrom(node)
    if node.op_type == "If" and node.input[0] == f"{_PREFIX}is":
        branches = {attribute.name: attribute.g for attribute in node.attribute}
        found.CopyFrom(branches["else_branch"].node[0])
        found.output[0] = node.output[0]
    return found


def split_attention(model: ModelProto) -> None:
    """Put every Attention node into a choice between one piece and _PIECES of them.

    Nodes whose mask has not one row for each query are left alone.
    """
    graph = model.graph
    split = {n.output[0] for n in graph.node if n.op_type == "Attention" and _has_rows(n)}
    nodes = _measures(graph) if split else []
    for node in graph.node:
        copy = NodeProto()
        copy.CopyFrom(_choice(node) if node.output[0] in split else node)
        nodes.append(copy)
    del graph.node[:]
    graph.node.extend(nodes)


def _has_rows(node: NodeProto) -> bool:
    causal = any(a.name == "is_causal" and a.i for a in node.attribute)
    return len(node.input) >= 4 and bool(node.input[3]) and not causal


def _measures(graph: GraphProto) -> list[NodeProto]:
    """Nodes that give `long.is` (bool) and `long.step` (int64 [1], queries in a piece)."""
    for name, value in (
        ("long.limit", np.asarray(LONG, np.int64)),
        ("long.one", np.asarray([1], np.int64)),
        ("long.round", np.asarray([_PIECES - 1], np.int64)),
        ("long.pieces", np.asarray([_PIECES], np.int64)),
        ("long.axis", np.asarray([2], np.int64)),
        ("long.scalar", np.asarray([], np.int64)),
    ):
        graph.initializer.append(numpy_helper.from_array(value, name))
    make = helper.make_node
    return [
        make("Shape", [graph.input[0].name], ["long.shape"]),
        make("Gather", ["long.shape", "long.one"], ["long.length"]),
        make("Reshape", ["long.length", "long.scalar"], ["long.count"]),
        make("Greater", ["long.count", "long.limit"], ["long.is"]),
        make("Add", ["long.length", "long.round"], ["long.raised"]),
        make("Div", ["long.raised", "long.pieces"], ["long.step"]),
    ]


def _choice(node: NodeProto) -> NodeProto:
    result = node.output[0]
    whole = NodeProto()
    whole.CopyFrom(node)
    whole.output[0] = f"{result}.whole"
    return helper.make_node(
        "If",
        ["long.is"],
        [result],
        then_branch=_branch(_pieces(node), f"{result}.pieces"),
        else_branch=_branch([whole], f"{result}.whole"),
    )


def _pieces(node: NodeProto) -> list[NodeProto]:
    result = node.output[0]
    make = helper.make_node
    nodes = []
    for i in range(_PIECES + 1):
        number, bound = f"{result}.number.{i}", f"{result}.bound.{i}"
        value = numpy_helper.from_array(np.asarray([i], np.int64))
        nodes += [
            make("Constant", [], [number], value=value),
            make("Mul", ["long.step", number], [bound]),
        ]
    for i in range(_PIECES):
        bounds = [f"{result}.bound.{i}", f"{result}.bound.{i + 1}", "long.axis"]
        query, mask, piece = (f"{result}.{part}.{i}" for part in ("query", "mask", "piece"))
        attention = NodeProto()
        attention.CopyFrom(node)
        attention.input[0], attention.input[3], attention.output[0] = query, mask, piece
        attention.name = piece
        nodes += [
            make("Slice", [node.input[0], *bounds], [query]),
            make("Slice", [node.input[3], *bounds], [mask]),
            attention,
        ]
    parts = [f"{result}.piece.{i}" for i in range(_PIECES)]
    return [*nodes, make("Concat", parts, [f"{result}.pieces"], axis=2)]


def _branch(nodes: list[NodeProto], output: str) -> GraphProto:
    # Its type is the node's, which graphs in half precision do not have in float32.
    return helper.make_graph(nodes, output, [], [ValueInfoProto(name=output)])
