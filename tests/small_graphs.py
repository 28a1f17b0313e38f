"""Graphs of a few nodes in the layout that NIM_CUSTOM_MODEL mounts: no checkpoint, no export."""

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto, helper

from runtime.engines.mock import byte_tokenizer

INPUTS = ("input_ids", "attention_mask")


def write_graph(
    directory: Path,
    nodes: Sequence[NodeProto],
    constants: Sequence[TensorProto],
    inputs: Sequence[str] = INPUTS,
) -> Path:
    """Write model.onnx (int64 [batch, sequence] → logits [batch, 1]) and tokenizer/ into
    `directory`; the tokenizer gives one token a byte."""
    (directory / "tokenizer").mkdir(parents=True)
    byte_tokenizer().save(str(directory / "tokenizer" / "tokenizer.json"))
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])],
        constants,
    )
    # An IR version that ONNX Runtime reads; the library writes its newest.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(directory / "model.onnx"))
    return directory
