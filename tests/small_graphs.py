"""Graphs of a few nodes in the layout that NIM_CUSTOM_MODEL mounts: no checkpoint, no export."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from runtime.engines.mock import byte_tokenizer

INPUTS = ("input_ids", "attention_mask")
Shape = Sequence[str | int]
_LOGITS: Mapping[str, Shape] = MappingProxyType({"logits": ["batch", 1]})
_VOCABULARY = 256


def write_graph(
    directory: Path,
    nodes: Sequence[NodeProto],
    constants: Sequence[TensorProto],
    inputs: Sequence[str] = INPUTS,
    *,
    outputs: Mapping[str, Shape] = _LOGITS,
) -> Path:
    """Write model.onnx (int64 [batch, sequence] → float32 `outputs`, by default logits [batch, 1])
    and tokenizer/ into `directory`; the tokenizer gives one token a byte. An input `dimensions`
    is int64 [batch]."""
    (directory / "tokenizer").mkdir(parents=True)
    byte_tokenizer().save(str(directory / "tokenizer" / "tokenizer.json"))
    shapes: dict[str, Shape] = {"dimensions": ["batch"]}
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info(
                name, TensorProto.INT64, shapes.get(name, ["batch", "sequence"])
            )
            for name in inputs
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in outputs.items()
        ],
        constants,
    )
    # An IR version that ONNX Runtime reads; the library writes its newest.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(directory / "model.onnx"))
    return directory


def embedding_table(size: int) -> np.ndarray:
    """Float32 [256, size]: what `write_embedding_directory` looks its tokens up in."""
    return np.random.default_rng(7).standard_normal((_VOCABULARY, size)).astype(np.float32) * 3


def write_embedding_directory(
    directory: Path,
    *,
    size: int = 8,
    output: str = "embeddings",
    declared: str | int | None = None,
    pooled: bool = True,
    dimensions_input: bool = False,
    divisor: float = 1.0,
) -> Path:
    """Write a directory whose graph gives the mean of the tokens' rows of `embedding_table`, not
    normalised and divided by `divisor`.

    `declared` is the output's last dimension as the graph states it (`size` by default). Without
    `pooled` the graph gives a vector a token. With `dimensions_input` it zeroes the components
    from the number in the input `dimensions` on, as NVIDIA's recipe does.
    """
    rows = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["flat_mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["flat_mask", "last"], ["mask"]),
        helper.make_node("Mul", ["rows", "mask"], ["real"]),
    ]
    mean = [
        helper.make_node("ReduceSum", ["real", "sequence"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "sequence"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
    ]
    cut = [
        helper.make_node("Unsqueeze", ["dimensions", "last"], ["wanted"]),
        helper.make_node("Less", ["places", "wanted"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["kept_floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["mean", "kept_floats"], ["cut"]),
    ]
    constants = [
        numpy_helper.from_array(embedding_table(size), "table"),
        numpy_helper.from_array(np.arange(size), "places"),
        helper.make_tensor("last", TensorProto.INT64, [1], [-1]),
        helper.make_tensor("sequence", TensorProto.INT64, [1], [1]),
        helper.make_tensor("divisor", TensorProto.FLOAT, [], [divisor]),
    ]
    nodes = [*rows, *(mean if pooled else []), *(cut if dimensions_input else [])]
    last = "cut" if dimensions_input else "mean" if pooled else "real"
    nodes.append(helper.make_node("Div", [last, "divisor"], [output]))
    width = declared or size
    shape: Shape = ["batch", width] if pooled else ["batch", "sequence", width]
    inputs = (*INPUTS, "dimensions") if dimensions_input else INPUTS
    return write_graph(directory, nodes, constants, inputs, outputs={output: shape})
