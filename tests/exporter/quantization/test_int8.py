"""int8: the construction on a graph made by hand, and a whole export of the trained ranker."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from exporter.errors import ParityFailed, QuantizationFailed
from exporter.parity import dependence, new_report, raise_failures
from exporter.pipeline import verify
from exporter.quantization import step
from exporter.quantization.calibration import Range, watch
from exporter.quantization.graph import Graph
from exporter.quantization.int8 import quantize_int8, round_columns, rounded_once
from exporter.quantization.step import quantize
from exporter.report import Rung, read_report
from runtime.manifest import read_manifest
from runtime.opening import open_ranker
from runtime.requests import RankRequest
from tests.conftest import Exported
from tests.exporter.conftest import QuantizedOnce
from tests.exporter.quantization.conftest import EMBEDDED
from tests.exporter.targets import target_in

CHECKPOINT = EMBEDDED / "rank"
HIDDEN, INNER = 32, 64
OUTLIER = 5


@pytest.fixture(scope="session")
def int8_artifact(trained_artifact: Path, quantized_once: QuantizedOnce) -> Path:
    """The trained ranker in int8, proven against its checkpoint."""
    return quantized_once(trained_artifact, "cpu-int8", CHECKPOINT)


def block() -> ModelProto:
    """Norm → two gated linears → product → linear; norm → GELU-like ReLU → linear; and a sum that
    reads a linear's source as well. Channel OUTLIER of the norm is 50 times the others."""
    random = np.random.default_rng(0)
    gain = np.ones(HIDDEN, np.float32)
    gain[OUTLIER] = 50.0
    tensors = {
        "gain": gain,
        "gate": random.normal(size=(HIDDEN, INNER)) / 6,
        "up": random.normal(size=(HIDDEN, INNER)) / 6,
        "down": random.normal(size=(INNER, HIDDEN)) / 8,
        "after": random.normal(size=(HIDDEN, HIDDEN)) / 6,
        "unread": np.zeros(3),
    }
    node = helper.make_node
    nodes = [
        node("RMSNormalization", ["x", "gain"], ["normed"]),
        node("MatMul", ["normed", "gate"], ["gated"]),
        node("Sigmoid", ["gated"], ["open"]),
        node("MatMul", ["normed", "up"], ["upped"]),
        node("Mul", ["open", "upped"], ["inner"]),
        node("MatMul", ["inner", "down"], ["downed"]),
        node("Relu", ["downed"], ["positive"]),
        node("MatMul", ["positive", "after"], ["more"]),
        node("Add", ["positive", "more"], ["y"]),
    ]
    shape = ["batch", "sequence", HIDDEN]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in tensors.items()],
    )
    opset = [helper.make_opsetid("", 23)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def run(model: ModelProto, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {"x": x})
    return np.asarray(y)


def rows(count: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(count, 9, HIDDEN)).astype(np.float32)


def quantized(tmp_path: Path) -> ModelProto:
    onnx.save(block(), tmp_path / "model.onnx")
    sources = ["normed", "inner", "positive"]
    ranges = watch(tmp_path, sources, [{"x": rows(20)[i : i + 1]} for i in range(20)]).ranges
    model = block()
    assert quantize_int8(model, ranges) == 4
    return model


def test_calibration_sees_the_extremes_of_every_channel_and_the_answers(tmp_path: Path) -> None:
    onnx.save(block(), tmp_path / "model.onnx")
    found = watch(tmp_path, ["x", "positive"], [{"x": rows(2)[:1]}, {"x": rows(2)[1:]}])
    ranges = found.ranges
    assert np.array_equal(ranges["x"].lowest, rows(2).min(axis=(0, 1)))
    assert np.array_equal(ranges["x"].highest, rows(2).max(axis=(0, 1)))
    assert ranges["positive"].lowest.min() == 0.0
    assert np.allclose(found.answers, run(block(), rows(2)), atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_graph_with_layers_rounded_twice_holds_the_one_that_rounds_them_once(
    tmp_path: Path,
) -> None:
    onnx.save(block(), tmp_path / "model.onnx")
    ranges = watch(tmp_path, ["normed", "inner", "positive"], [{"x": rows(1)}]).ranges
    made, once = block(), block()
    quantize_int8(made, ranges, {"gated", "downed"})
    assert len(made.graph.node) > len(block().graph.node)
    rounded_once(made)
    quantize_int8(once, ranges)
    assert list(made.graph.node) == list(once.graph.node)
    assert {one.name for one in made.graph.initializer} == {
        one.name for one in once.graph.initializer
    }


def test_rounded_products_stay_near_in_spite_of_an_outlier(tmp_path: Path) -> None:
    wanted = run(block(), rows(4))
    error = run(quantized(tmp_path), rows(4)) - wanted
    assert np.sqrt((error**2).mean()) < 0.01 * wanted.std()


def test_without_smoothing_the_outlier_costs_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = run(block(), rows(4))
    smooth = run(quantized(tmp_path), rows(4)) - wanted
    monkeypatch.setattr(
        "exporter.quantization.smoothing._scale", lambda reach, _: np.ones_like(reach)
    )
    rough = run(quantized(tmp_path), rows(4)) - wanted
    assert rough.std() > 1.5 * smooth.std()


def test_divisions_are_folded_where_nobody_else_reads(tmp_path: Path) -> None:
    results = {n.output[0] for n in quantized(tmp_path).graph.node}
    divided = {name for name in results if name.endswith(".smooth")}
    # The norm's gain and the linear `upped` carry theirs; `positive` is read by a sum as well.
    assert divided == {"positive.smooth"}


def test_a_row_is_independent_of_its_batch(tmp_path: Path) -> None:
    model = quantized(tmp_path)
    alone = np.concatenate([run(model, row[None]) for row in rows(6)])
    assert np.abs(run(model, rows(6)) - alone).max() < 1e-5


def test_columns_of_zeros_stay_zeros() -> None:
    rounded, scales = round_columns(np.asarray([[0.0, 2.0], [0.0, -4.0]], np.float32))
    assert (rounded * scales).tolist() == [[0.0, pytest.approx(2.0, abs=0.02)], [0.0, -4.0]]


def test_unread_tensors_are_dropped(tmp_path: Path) -> None:
    names = {t.name for t in quantized(tmp_path).graph.initializer}
    assert not names & {"gate", "up", "down", "after", "unread"}


def test_the_trained_ranker_keeps_its_order(int8_artifact: Path) -> None:
    parity = read_report(int8_artifact)
    ranking, logits = parity.rungs["ranking"], parity.rungs["logits"]
    assert (parity.precision, parity.rule) == ("int8", "trained")
    assert ranking.pairs > 2000
    assert (ranking.kendall_tau or 0) >= 0.98
    assert (ranking.top_k_overlap or 0) >= 0.9
    assert (logits.batch_max_abs_delta or 1) <= 1e-5
    assert read_manifest(int8_artifact).target == "cpu-int8"


def test_the_graph_is_small_and_of_standard_operators(int8_artifact: Path) -> None:
    model = onnx.load(int8_artifact / "model.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 2}
    assert kinds == {TensorProto.INT8, TensorProto.FLOAT}  # the embeddings stay as they are
    assert len(Graph(model).linears()) == 0


def again(artifact: Path) -> int:
    """How many layers are rounded twice."""
    model = onnx.load(artifact / "model.onnx")
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    return sum(node.output[0].endswith(".again") for node in products)


def test_queries_and_keys_are_rounded_twice_where_that_helps(int8_artifact: Path) -> None:
    assert again(int8_artifact) == 6  # 3 layers; it halves the error of this model


def rounded(artifact: Path, place: Path) -> Path:
    """A copy of the artifact at `place`, its graph in int8 and nothing proven."""
    shutil.copytree(artifact, place)
    quantize(place, msgspec.structs.replace(read_manifest(artifact), precision="int8"))
    return place


def test_and_once_where_it_helps_too_little(
    trained_artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(step, "_WORTH_TWICE", 0.1)
    made = rounded(trained_artifact, tmp_path / "made")
    assert again(made) == 0
    assert "once is enough" in capsys.readouterr().err
    # Nothing is left of the graphs that were compared.
    assert files(made) == files(trained_artifact)


def files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*")}


@pytest.mark.heavy
@pytest.mark.parametrize("family", ["modernbert", "deberta"])
def test_graphs_of_other_families_stay_near(
    family: str, checkpoints: dict[str, Path], exported: Exported, tmp_path: Path
) -> None:
    source = exported(checkpoints[family])
    quantized = rounded(source, tmp_path / "made")
    random = np.random.default_rng(0)
    texts = {
        "input_ids": random.integers(5, 60, (40, 12)),
        "attention_mask": np.ones((40, 12), np.int64),
    }
    wanted, found = (
        onnxruntime.InferenceSession(one / "model.onnx").run(None, texts)[0]
        for one in (source, quantized)
    )
    # What parity lets pass of random weights.
    assert 0 < np.abs(found - wanted).max() < 0.25 * wanted.std()


def test_the_readme_s_example(int8_artifact: Path) -> None:
    ranker = open_ranker(int8_artifact)
    try:
        ranker.warm_up()
        passages = [
            "The weather is nice today",
            "Machine learning is a subset of AI",
            "Deep learning uses neural networks",
        ]
        ranking = ranker.rank(RankRequest("What is machine learning?", passages))
        assert ranking.order.tolist() == [1, 2, 0]
    finally:
        ranker.close()


@pytest.mark.heavy
def test_verify_against_the_checkpoint(int8_artifact: Path) -> None:
    verify(int8_artifact, str(CHECKPOINT), None)


def test_auto_stays_on_the_engine_that_fuses(int8_artifact: Path) -> None:
    ranker = open_ranker(int8_artifact, engine="auto")
    try:
        assert ranker.info.engine == "onnxruntime-cpu"
    finally:
        ranker.close()


def test_unfused_products_are_refused(
    rank_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "FUSED_OPERATOR", "SomethingElse")
    with pytest.raises(QuantizationFailed, match="fused 0 of"):
        rounded(rank_artifact, tmp_path / "made")


@pytest.mark.parametrize(("moved", "passes"), [(1e-6, True), (3e-4, False)])
def test_scores_that_depend_on_their_batch_are_refused(moved: float, passes: bool) -> None:
    report = new_report("onnxruntime-cpu", target_in("int8"), "a witness", random_weights=False)
    report.rungs["logits"] = Rung(pairs=1, passed=True, batch_max_abs_delta=moved)
    if passes:
        raise_failures(logits=dependence(report))
    else:
        with pytest.raises(ParityFailed, match="padding_waste"):
            raise_failures(logits=dependence(report))
    assert report.rungs["logits"].passed is passes


def test_a_flat_channel_needs_no_scale() -> None:
    model = block()
    still = {
        name: Range(np.zeros(size, np.float32), np.zeros(size, np.float32))
        for name, size in (("normed", HIDDEN), ("inner", INNER), ("positive", HIDDEN))
    }
    quantize_int8(model, still)
    assert np.isfinite(run(model, rows(1))).all()
