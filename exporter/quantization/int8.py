"""int8 that keeps the order of passages, in standard ONNX operators.

For every linear layer, with x [tokens, inputs] and W [inputs, outputs]:

    r = max |x| of each token        x / r → uint8
    W → int8 with one scale for each column          (x/r)₈ · W₈ · r

A scale for each token keeps a score independent of its batch; outliers of single channels are
smoothed before. Too sensitive layers are rounded `twice`: the second time rounds the error of the
first. Written with QuantizeLinear and DequantizeLinear, which ONNX Runtime fuses
into MatMulIntegerToFloat; activations must be uint8 and weights int8 for its fast kernels.
"""

from collections.abc import Collection, Mapping
from copy import deepcopy

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from exporter.quantization.calibration import Range
from exporter.quantization.graph import Floats, Graph, node
from exporter.quantization.smoothing import Matrix, Smoothed, smooth

FUSED_OPERATOR = "MatMulIntegerToFloat"
_STEPS = 127
# A token of zeros only must not divide by zero.
_LEAST_RANGE = 1e-10
# Ends of the names of values: the first product of a layer; the error that the first rounding left,
# and its product; the sum of both products.
_ONCE, _REST, _AGAIN, _BOTH = ".once", ".rest", ".again", ".both"
_ONLY_TWICE = (_REST, f"{_REST}.eight", f"{_REST}.rounded", _AGAIN, _BOTH)


def quantize_int8(
    model: ModelProto, ranges: Mapping[str, Range], twice: Collection[str] = ()
) -> int:
    """Rewrite the linear layers of `model` in place and return the number of products.

    `ranges` are the observed ranges of the layers' sources, `twice` the results of the layers
    to round twice.
    """
    graph = Graph(model)
    linears = graph.linears()
    matrices = {linear.result: Matrix(graph, linear) for linear in linears}
    smoothed = smooth(graph, matrices, ranges)
    axis = graph.add_tensor("int8.axis", [-1], np.int64)
    least = graph.add_tensor("int8.least", _LEAST_RANGE, np.float32)
    around = _grid(graph, "around", 1 / _STEPS, 128)
    above = _grid(graph, "above", 1 / 255, 0)
    rest = _grid(graph, "rest", 0.5 / _STEPS**2, 128)
    for source, read in smoothed.items():
        x = read.value
        graph.insert(
            source,
            [
                node("Abs", [x], f"{x}.magnitude"),
                node("ReduceMax", [f"{x}.magnitude", axis], f"{x}.largest", keepdims=1),
                node("Max", [f"{x}.largest", least], f"{x}.range"),
                node("Reciprocal", [f"{x}.range"], f"{x}.inverse"),
                node("Mul", [x, f"{x}.inverse"], f"{x}.unit"),
            ],
        )
        grid = around if read.offset is None else above
        graph.insert_rounding(source, f"{x}.unit", *grid)
        if any(one.source == source and one.result in twice for one in linears):
            left = [f"{x}.unit", f"{x}.unit.rounded"]
            graph.insert(source, [node("Sub", left, f"{x}{_REST}")])
            graph.insert_rounding(source, f"{x}{_REST}", *rest)
    for name, matrix in matrices.items():
        _multiply(graph, matrix, smoothed[matrix.linear.source], twice=name in twice)
    graph.finish()
    return len(linears) + len(twice)


def rounded_once(model: ModelProto) -> None:
    """Turn what `quantize_int8` made with layers rounded twice into what it makes without, in
    place: the weights are the same."""
    graph = model.graph
    kept = [one for one in graph.node if not one.output[0].endswith(_ONLY_TWICE)]
    for one in kept:
        for place, name in enumerate(one.input):
            if name.endswith(_BOTH):
                one.input[place] = name.removesuffix(_BOTH) + _ONCE
    nodes = [deepcopy(one) for one in kept]
    read = {name for one in nodes for name in one.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    tensors = [deepcopy(tensor) for tensor in tensors]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)


def _grid(graph: Graph, name: str, scale: float, zero: int) -> tuple[str, str]:
    """The names of a scale and a zero point, which are steps of a rounding."""
    return (
        graph.add_tensor(f"int8.{name}.scale", scale, np.float32),
        graph.add_tensor(f"int8.{name}.zero", zero, np.uint8),
    )


def _multiply(graph: Graph, matrix: Matrix, read: Smoothed, *, twice: bool) -> None:
    name, x = matrix.linear.result, read.value
    rounded, scales = round_columns(matrix.values())
    inputs = [
        graph.add_tensor(f"{name}.weight", rounded, np.int8),
        graph.add_tensor(f"{name}.scales", scales, np.float32),
        graph.add_tensor(f"{name}.zeros", np.zeros(len(scales)), np.int8),
    ]
    nodes = [
        node("DequantizeLinear", inputs, f"{name}.matrix", axis=1),
        node("MatMul", [f"{x}.unit.rounded", f"{name}.matrix"], f"{name}{_ONCE}"),
    ]
    product = f"{name}{_ONCE}"
    if twice:
        nodes += [
            node("MatMul", [f"{x}{_REST}.rounded", f"{name}.matrix"], f"{name}{_AGAIN}"),
            node("Add", [product, f"{name}{_AGAIN}"], f"{name}{_BOTH}"),
        ]
        product = f"{name}{_BOTH}"
    if read.offset is None:
        nodes.append(node("Mul", [product, f"{x}.range"], name))
    else:
        missing = graph.add_tensor(f"{name}.missing", read.offset * matrix.sums(), np.float32)
        nodes += [
            node("Mul", [product, f"{x}.range"], f"{name}.scaled"),
            node("Add", [f"{name}.scaled", missing], name),
        ]
    graph.replace(name, nodes)


def round_columns(matrix: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """`matrix` [inputs, outputs] as int8 with a step float32 [outputs] for each column."""
    scales = np.abs(matrix).max(axis=0) / np.float32(_STEPS)
    scales[scales == 0] = 1.0
    return np.rint(matrix / scales).astype(np.int8), scales.astype(np.float32)
