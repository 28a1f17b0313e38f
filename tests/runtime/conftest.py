"""A graph small enough to compute by hand, in the layout that NIM_CUSTOM_MODEL mounts."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from runtime.engines.mock import byte_tokenizer


@pytest.fixture
def bare_directory(tmp_path: Path) -> Path:
    """model.onnx (logit = sum of the real token ids / 100) and tokenizer/ (one token a byte)."""
    return write_bare_directory(tmp_path / "bare", ["input_ids", "attention_mask"])


def write_bare_directory(directory: Path, inputs: list[str], divisor: float = 100.0) -> Path:
    """Write such a directory; further `inputs` are added to the sum."""
    (directory / "tokenizer").mkdir(parents=True)
    byte_tokenizer().save(str(directory / "tokenizer" / "tokenizer.json"))
    shape = ["batch", "sequence"]
    nodes = [helper.make_node("Mul", ["input_ids", "attention_mask"], ["real"])]
    summed = "real"
    for name in inputs[2:]:
        nodes.append(helper.make_node("Add", [summed, name], [f"with_{name}"]))
        summed = f"with_{name}"
    nodes += [
        helper.make_node("Cast", [summed], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats", "axis"], ["sum"], keepdims=1),
        helper.make_node("Div", ["sum", "divisor"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sum_of_ids",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])],
        [
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("divisor", TensorProto.FLOAT, [], [divisor]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(directory / "model.onnx"))
    return directory
