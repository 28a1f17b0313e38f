"""Weights in 8 bits: the rounding by hand, and whole exports of tiny and trained models."""

from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from exporter.pipeline import ExportArgs
from exporter.quantization.weight_only import (
    OPERATOR,
    quantize_weights,
    round_blocks,
    round_rows,
)
from exporter.report import read_report
from runtime.manifest import read_manifest
from runtime.opening import open_ranker
from tests.conftest import Exported
from tests.exporter.conftest import QuantizedOnce
from tests.exporter.quantization.conftest import EMBEDDED

TARGET = "cpu-int8-weights"


@pytest.mark.parametrize("inputs", [20, 128, 300])
def test_each_block_has_its_own_step(inputs: int) -> None:
    random = np.random.default_rng(0)
    matrix = random.normal(size=(inputs, 6)).astype(np.float32)
    matrix[0] *= 100  # an outlier costs its own block only
    matrix[:, 5] = 0
    rounded, scales = round_blocks(matrix)
    blocks = scales.shape[1]
    size = rounded.shape[2]
    assert rounded.shape == (6, blocks, size)
    assert blocks == -(-inputs // size)
    wide = (rounded.astype(np.float32) - 128) * scales[..., None]
    flat = wide.reshape(6, -1)
    assert np.all(flat[:, inputs:] == 0)
    error = np.abs(flat[:, :inputs].T - matrix)
    steps = np.repeat(scales, size, axis=1)[:, :inputs].T
    assert np.all(error <= 0.51 * steps)
    assert np.all(flat[5] == 0)


@pytest.mark.parametrize(("columns", "blocks"), [(64, 2), (50, 1)])
def test_rows_are_rounded_in_blocks_where_they_divide(columns: int, blocks: int) -> None:
    table = np.random.default_rng(0).normal(size=(7, columns)).astype(np.float32)
    table[3] = 0
    rounded, scales = round_rows(table)
    assert scales.shape == (7, blocks, 1)
    wide = (rounded * scales).reshape(7, columns)
    assert np.abs(wide - table).max() <= 0.51 * scales.max()
    assert np.all(wide[3] == 0)


@pytest.mark.parametrize("kind", ["pair", pytest.param("embed", marks=pytest.mark.heavy)])
def test_most_of_a_graph_is_rounded(kind: str, request: pytest.FixtureRequest) -> None:
    artifact: Path = request.getfixturevalue(f"{kind}_artifact")
    model = onnx.load(artifact / "model.onnx")
    assert quantize_weights(model) >= 2 * 6
    operators = [node.op_type for node in model.graph.node]
    assert operators.count(OPERATOR) >= 2 * 6
    sizes = {t.data_type: 0 for t in model.graph.initializer}
    for tensor in model.graph.initializer:
        sizes[tensor.data_type] += int(np.prod(tensor.dims))
    assert sizes[TensorProto.INT8] + sizes[TensorProto.UINT8] > sizes[TensorProto.FLOAT]


@pytest.fixture(scope="session")
def quantized(trained_artifact: Path, quantized_once: QuantizedOnce) -> Path:
    """The trained ranker, quantized against its own scores in fp32."""
    return quantized_once(trained_artifact, TARGET)


def test_the_trained_ranker_keeps_its_order(quantized: Path) -> None:
    parity = read_report(quantized)
    ranking, logits = parity.rungs["ranking"], parity.rungs["logits"]
    assert (parity.precision, parity.rule) == ("int8-weights", "trained")
    assert ranking.pairs > 2000
    assert (ranking.kendall_tau or 0) >= 0.98
    assert (logits.batch_max_abs_delta or 1) <= 1e-5


def test_it_is_a_third_of_the_size_and_stays_on_its_engine(
    quantized: Path, trained_artifact: Path
) -> None:
    sizes = [(folder / "model.onnx").stat().st_size for folder in (quantized, trained_artifact)]
    assert sizes[0] < 0.35 * sizes[1]
    assert read_manifest(quantized).version != read_manifest(trained_artifact).version
    with closing(open_ranker(quantized, engine="auto")) as ranker:
        ranker.warm_up()
        assert ranker.info.engine == "onnxruntime-cpu"


@pytest.mark.heavy
def test_the_trained_embedder_keeps_its_order(exported: Exported) -> None:
    args = ExportArgs(profile="tiny-embed-v1", target=TARGET, max_tokens=512)
    ranking = read_report(exported(EMBEDDED / "embed", args)).rungs["ranking"]
    assert (ranking.kendall_tau or 0) >= 0.95
