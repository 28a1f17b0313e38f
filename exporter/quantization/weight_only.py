"""Weights in 8 bits for machines with little memory; activations are unchanged.

    W [inputs, outputs] → 8 bits, one scale for each block of 32 inputs of a column
    token embeddings    → 8 bits, likewise along each row, widened after it was looked up

Products are ONNX Runtime's own MatMulNBits, so that this is for its CPU provider alone. Left at
its default accuracy_level it widens weights to float32 as it needs them, straight from the mapped
file: nothing is copied when it is opened. Level 4, and the standard form (DequantizeLinear in
blocks before a MatMul), which ONNX Runtime fuses into level 4, are some three times as fast, but
round activations as they go and copy the weights: scores then move by up to 0.06 with the rows
beside them.
"""

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper

from exporter.quantization.graph import Floats, Graph, Linear, node

OPERATOR, DOMAIN = "MatMulNBits", "com.microsoft"
_TOKENS = "input_ids"
_BLOCK = 32
_STEPS = 127
# The zero of unsigned 8 bits if no zero points are given.
_MIDDLE = 128

Bytes = npt.NDArray[np.uint8]


def quantize_weights(model: ModelProto) -> int:
    """Rewrite linear layers and token embeddings of `model` in place; returns how many layers."""
    graph = Graph(model)
    linears = graph.linears()
    for linear in linears:
        _multiply(graph, linear)
    for reader in graph.readers[_TOKENS]:
        if reader.op_type == "Gather" and reader.input[1] == _TOKENS:
            _look_up(graph, reader.input[0], reader.output[0])
    graph.finish()
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return len(linears)


def round_blocks(matrix: Floats) -> tuple[Bytes, Floats]:
    """`matrix` [inputs, outputs] as 8 bits [outputs, blocks, _BLOCK], _MIDDLE being zero, with a
    step float32 [outputs, blocks] for each block; the last one is filled up with zeros."""
    inputs, outputs = matrix.shape
    blocks = -(-inputs // _BLOCK)
    padded = np.zeros((outputs, blocks * _BLOCK), np.float32)
    padded[:, :inputs] = matrix.T
    rounded, scales = round_rows(padded)
    return (rounded.astype(np.int16) + _MIDDLE).astype(np.uint8), scales[..., 0]


def round_rows(table: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """`table` [rows, columns] as int8 [rows, blocks, columns of a block] with a step float32
    [rows, blocks, 1] for each block; one block a row where columns are no multiple of _BLOCK."""
    rows, columns = table.shape
    cut = table.reshape(rows, -1, columns if columns % _BLOCK else _BLOCK)
    scales = np.abs(cut).max(axis=-1, keepdims=True) / np.float32(_STEPS)
    scales[scales == 0] = 1.0
    return np.rint(cut / scales).astype(np.int8), scales.astype(np.float32)


def _multiply(graph: Graph, linear: Linear) -> None:
    matrix, name = graph.array(linear.weight), linear.result
    rounded, scales = round_blocks(matrix)
    inputs = [
        linear.source,
        graph.add_tensor(f"{name}.weight", rounded, np.uint8),
        graph.add_tensor(f"{name}.scales", scales, np.float32),
    ]
    product = helper.make_node(
        OPERATOR,
        inputs,
        [name],
        domain=DOMAIN,
        K=matrix.shape[0],
        N=matrix.shape[1],
        bits=8,
        block_size=_BLOCK,
    )
    graph.replace(name, [product])


def _look_up(graph: Graph, table: str, result: str) -> None:
    values = graph.array(table)
    rounded, scales = round_rows(values)
    rows = graph.add_tensor(f"{table}.rows", rounded, np.int8)
    steps = graph.add_tensor(f"{table}.scales", scales, np.float32)
    shape = graph.add_tensor(f"{table}.shape", [0, 0, values.shape[1]], np.int64)
    graph.replace(
        result,
        [
            node("Gather", [rows, _TOKENS], f"{result}.rows"),
            node("Gather", [steps, _TOKENS], f"{result}.steps"),
            node("Cast", [f"{result}.rows"], f"{result}.wide", to=TensorProto.FLOAT),
            node("Mul", [f"{result}.wide", f"{result}.steps"], f"{result}.blocks"),
            node("Reshape", [f"{result}.blocks", shape], result),
        ],
    )
