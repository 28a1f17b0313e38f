"""Weights in 8 bits for machines that are short of memory: the activations stay as they are.

    W [inputs, outputs] → 8 bits, one scale for each block of 128 inputs of a column
    token embeddings    → 8 bits, one scale a row; rows are widened after they were looked up

Products are ONNX Runtime's own MatMulNBits, so that this is for its CPU provider alone. The
standard form (DequantizeLinear in blocks before a MatMul) is fused into the same operator when it
is opened and runs as fast, but keeps a second copy of the weights. At accuracy_level 4 the kernel
rounds activations in blocks as it goes: four to nine times as fast as level 0, which does not.
"""

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper

from exporter.quantization.graph import Floats, Graph, Linear, node

OPERATOR, DOMAIN = "MatMulNBits", "com.microsoft"
_TOKENS = "input_ids"
_BLOCK = 32
_STEPS = 127
# 8 bits without a sign: what stands for zero where no zero points are given.
_MIDDLE = 128
_INT8_PRODUCTS = 4

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
    cut = padded.reshape(outputs, blocks, _BLOCK)
    scales = _steps(cut)
    rounded = np.rint(cut / scales) + _MIDDLE
    return rounded.astype(np.uint8), scales[..., 0]


def round_rows(table: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """`table` [rows, columns] as int8 with a step float32 [rows, 1] for each row."""
    scales = _steps(table)
    return np.rint(table / scales).astype(np.int8), scales


def _steps(values: Floats) -> Floats:
    scales = np.abs(values).max(axis=-1, keepdims=True) / np.float32(_STEPS)
    scales[scales == 0] = 1.0
    return np.asarray(scales, np.float32)


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
        accuracy_level=_INT8_PRODUCTS,
    )
    graph.replace(name, [product])


def _look_up(graph: Graph, table: str, result: str) -> None:
    rounded, scales = round_rows(graph.array(table))
    rows = graph.add_tensor(f"{table}.rows", rounded, np.int8)
    steps = graph.add_tensor(f"{table}.scales", scales, np.float32)
    graph.replace(
        result,
        [
            node("Gather", [rows, _TOKENS], f"{result}.rows"),
            node("Gather", [steps, _TOKENS], f"{result}.steps"),
            node("Cast", [f"{result}.rows"], f"{result}.wide", to=TensorProto.FLOAT),
            node("Mul", [f"{result}.wide", f"{result}.steps"], result),
        ],
    )
