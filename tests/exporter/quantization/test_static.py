"""fp8 and int8 for TensorRT: Q/DQ in the graph, its types, and what it still ranks."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from exporter.errors import QuantizationFailed
from exporter.parity import check_ranking, ndcg, new_report
from exporter.parity_texts import Group
from exporter.pipeline import ExportArgs
from exporter.quantization.calibration import Range
from exporter.quantization.graph import Graph
from exporter.quantization.static import quantize_static
from runtime.manifest import read_manifest
from runtime.profile import load_target_profile
from tests.conftest import Exported

EIGHT = {"fp8": TensorProto.FLOAT8E4M3FN, "int8": TensorProto.INT8}
TRAINED = Path(__file__).parents[3] / "embedded" / "rank"


@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_every_linear_layer_is_rounded_and_nothing_else(planless: Path, precision: Any) -> None:
    model = onnx.load(planless / "model.onnx")
    reach = np.ones(64, np.float32)
    ranges = {linear.source: Range(-reach, reach) for linear in Graph(model).linears()}
    assert quantize_static(model, ranges, precision) == 14
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} == {""}
    found = Counter(node.op_type for node in model.graph.node)
    assert found["MatMul"] == 14
    assert found["QuantizeLinear"] == 2 * 4  # q, k, v share one source, gate and up another
    assert found["DequantizeLinear"] == 2 * 4 + 14
    tensors = {i.name: i for i in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "MatMul":
            assert {made[name].op_type for name in node.input} == {"DequantizeLinear"}
        if node.op_type == "QuantizeLinear":
            assert tensors[node.input[1]].data_type == TensorProto.FLOAT16
            assert list(tensors[node.input[1]].dims) == []  # one scale a tensor
            assert tensors[node.input[2]].data_type == EIGHT[precision]
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors:
            weight, scale, zero = (tensors[name] for name in node.input)
            assert weight.data_type == zero.data_type == EIGHT[precision]
            assert scale.data_type == TensorProto.FLOAT16
            assert list(scale.dims) == ([weight.dims[1]] if precision == "int8" else [])
    assert {t.data_type for t in tensors.values() if len(t.dims) == 2 and min(t.dims) > 1} == {
        EIGHT[precision],
        TensorProto.FLOAT16,  # the embeddings
    }


@pytest.mark.heavy
def test_a_trained_ranker_keeps_its_order_in_fp8(exported: Exported) -> None:
    artifact = exported(TRAINED, ExportArgs(target="tensorrt-fp8", max_tokens=64))
    parity = json.loads((artifact / "parity.json").read_bytes())
    assert (parity["rule"], parity["precision"]) == ("ndcg", "fp8")
    ranking = parity["rungs"]["ranking"]
    assert ranking["passed"]
    assert ranking["ndcg_drift"] <= ranking["tolerance"] == 0.01
    assert ranking["kendall_tau"] > 0.9
    assert read_manifest(artifact).precision == "fp8"


def test_a_graph_without_linear_layers_is_refused() -> None:
    with pytest.raises(QuantizationFailed, match="found 0 DequantizeLinear"):
        quantize_static(ModelProto(), {}, "fp8")


def test_values_come_back_within_a_step() -> None:
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(16, 8)).astype(np.float16)
    for precision, error in (("int8", 1 / 127), ("fp8", 1 / 16)):
        model = ModelProto()
        model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
        model.graph.node.add(op_type="Relu", input=["x"], output=["source"])
        model.graph.node.add(op_type="MatMul", input=["source", "w"], output=["y"])
        reach = np.ones(16, np.float32)
        quantize_static(model, {"source": Range(-reach, reach)}, precision)  # type: ignore[arg-type]
        tensors = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        again = tensors["y.weight"].astype(np.float32) * tensors["y.scales"].astype(np.float32)
        largest = np.abs(weights).max()
        np.testing.assert_allclose(again, weights, atol=error * largest)
        assert tensors["source.scale"] == pytest.approx(
            1 / (127 if precision == "int8" else 448), rel=1e-3
        )


def test_ndcg_is_one_for_the_same_order_and_less_for_another() -> None:
    wanted = np.asarray([3.0, 1.0, 2.0, -5.0, 0.0, 0.5])
    assert ndcg(wanted, 7 * wanted - 2) == pytest.approx(1.0)
    assert ndcg(wanted, np.asarray([3.0, 1.0, 2.0, -5.0, 0.5, 0.0])) > 0.99
    assert ndcg(wanted, -wanted) < 0.8
    assert ndcg(np.zeros(6), wanted) == 1.0


@pytest.mark.parametrize(("factor", "passes"), [(1.0, True), (-1.0, False)])
def test_the_rung_is_judged_by_ndcg(factor: float, passes: bool) -> None:
    report = new_report(
        "tensorrt", load_target_profile("tensorrt-fp8"), "a witness", random_weights=False
    )
    wanted = np.linspace(-4, 4, 24)
    group = Group("group", "query", tuple(map(str, range(24))))
    message = check_ranking(report, [(group, wanted, factor * wanted)], 1e-3)
    assert report.rungs["ranking"].passed == passes
    assert passes or "nDCG@10 by the checkpoint's scores drifts" in (message or "")
