"""Weights as large as those of an 8B model in float32: one file, read where it is."""

from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from runtime.engines import EngineSetup, open_engine

WORDS, HIDDEN = 151936, 4096  # a table of 2.5 GB, above what one message of protobuf may hold
FAR = 30_000_000_000 // 4096 * 4096


def outside(name: str, offset: int, *dims: int) -> TensorProto:
    tensor = TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    length = 4 * int(np.prod(dims))
    for key, value in (("location", "model.onnx.data"), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.mark.parametrize(
    "name", ["onnxruntime-cpu", pytest.param("openvino-fp32", marks=pytest.mark.heavy)]
)
def test_a_table_above_2_gb_and_a_tensor_behind_30_gb_are_read(name: str, tmp_path: Path) -> None:
    """The file is sparse: only what is written takes space."""
    row, last = np.full(HIDDEN, 0.5, np.float32), np.ones((HIDDEN, 1), np.float32)
    with (tmp_path / "model.onnx.data").open("wb") as file:
        for offset, values in ((4 * HIDDEN * (WORDS - 1), row), (FAR, last)):
            file.seek(offset)
            file.write(values.tobytes())
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "last"], ["scores"]),
        helper.make_node("ReduceSum", ["scores", "axis"], ["logits"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])],
        [
            outside("table", 0, WORDS, HIDDEN),
            outside("last", FAR, HIDDEN, 1),
            onnx.numpy_helper.from_array(np.asarray([1]), "axis"),
        ],
    )
    opsets = [helper.make_opsetid("", 23)]
    onnx.save(
        helper.make_model(graph, opset_imports=opsets, ir_version=11), tmp_path / "model.onnx"
    )
    with closing(open_engine(name, tmp_path, EngineSetup(inputs=("input_ids",)))) as engine:
        found = engine.run({"input_ids": np.asarray([[WORDS - 1, 0, WORDS - 1]])})
    assert found["logits"].item() == HIDDEN
