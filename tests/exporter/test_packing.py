"""Packed graphs: only attention computes padding, and nothing else changes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper

from exporter.errors import ExportError
from exporter.lean import save_bytes
from exporter.onnxruntime_cuda import adapt
from exporter.packing import pack_tokens
from runtime.shapes import PLACES_INPUT
from tests.conftest import Exported

FAMILIES = [
    "llama",
    "embed",
    "bert",
    pytest.param("xlm-roberta", marks=pytest.mark.heavy),
    "modernbert",
    "deberta",
]


def opened(model: ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def computed(
    session: onnxruntime.InferenceSession,
    ids: np.ndarray,
    mask: np.ndarray,
    places: np.ndarray | None = None,
) -> np.ndarray:
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids % 2}
    given[PLACES_INPUT] = np.flatnonzero(mask) if places is None else places
    (found,) = session.run(None, {i.name: given[i.name] for i in session.get_inputs()})
    return np.asarray(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_graph_gives_the_same_on_either_side_of_the_padding(
    family: str, checkpoints: dict[str, Path], exported: Exported, tmp_path: Path
) -> None:
    source = onnx.load(exported(checkpoints[family]) / "model.onnx")
    onnx.save(source, tmp_path / "model.onnx")
    adapt(tmp_path, packed=True)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    plain, packed = opened(source), opened(model)
    drawn = np.random.default_rng(0)
    for rows, length in ((1, 1), (3, 7), (7, 30), (2, 90)):
        ids = drawn.integers(5, 80, (rows, length))
        real = length - np.arange(rows)[:, None] * (length // (rows + 1))
        right = (np.arange(length) < real).astype(np.int64)
        wanted = computed(plain, ids, right)
        np.testing.assert_allclose(computed(packed, ids, right), wanted, atol=1e-5)
        # As a captured CUDA graph is called: one number of tokens.
        every = np.arange(rows * length)
        np.testing.assert_allclose(computed(packed, ids, right, every), wanted, atol=1e-5)
        order = (np.arange(length) + real) % length
        turned = [np.take_along_axis(one, order, 1) for one in (ids, right)]
        np.testing.assert_allclose(computed(packed, *turned), wanted, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_that_is_not_finite_changes_no_other(
    family: str, checkpoints: dict[str, Path], exported: Exported, tmp_path: Path
) -> None:
    """Nobody may see states of other rows in padding: 0 × NaN is NaN."""
    source = onnx.load(exported(checkpoints[family]) / "model.onnx")
    _spoil(source, 79)
    onnx.save(source, tmp_path / "model.onnx")
    adapt(tmp_path, packed=True)
    packed = onnx.load(tmp_path / "model.onnx")
    real = np.asarray([[6], [4], [9], [1]])
    ids = np.random.default_rng(0).integers(5, 79, (4, 9))
    ids[0] = 79
    right = (np.arange(9) < real).astype(np.int64)
    order = (np.arange(9) + real) % 9
    turned = [np.take_along_axis(one, order, 1) for one in (ids, right)]
    wanted = computed(opened(source), ids, right)
    assert [bool(np.isfinite(one).all()) for one in wanted] == [False, True, True, True]
    for given in ([ids, right], turned):
        np.testing.assert_allclose(computed(opened(packed), *given)[1:], wanted[1:], atol=1e-5)


def _spoil(model: ModelProto, token: int) -> None:
    """Make the embedding of `token` NaN."""
    (name,) = (
        node.input[0]
        for node in model.graph.node
        if node.op_type == "Gather" and node.input[1] == "input_ids"
    )
    (table,) = (one for one in model.graph.initializer if one.name == name)
    values = numpy_helper.to_array(table).copy()
    values[token] = np.nan
    table.CopyFrom(numpy_helper.from_array(values, name))


def test_only_attention_computes_padding(half_artifact: Path) -> None:
    """Also when queries, keys and values are parts of one product."""
    model = onnx.load(half_artifact / "model.onnx")
    save_bytes(model.graph)
    pack_tokens(model.graph)
    onnx.checker.check_model(model)
    made = [node for node in model.graph.node if node.op_type in ("MatMul", "GatedRMSNorm")]
    model.graph.output.extend(onnx.ValueInfoProto(name=node.output[0]) for node in made)
    session = opened(model)
    mask = (np.arange(9) < np.asarray([[9], [5], [1]])).astype(np.int64)
    given = {"input_ids": mask * 7, "attention_mask": mask, PLACES_INPUT: np.flatnonzero(mask)}
    _, *found = session.run(None, given)
    # The last product is the pooling.
    assert [one.shape[:2] for one in found[:-1]] == [(1, 15)] * (len(made) - 1)
    assert len(made) == 2 * (5 + 1) + 1


def test_a_graph_without_turned_rows_is_refused(planless: Path) -> None:
    with pytest.raises(ExportError, match="rows are not rotated"):
        pack_tokens(onnx.load(planless / "model.onnx").graph)
