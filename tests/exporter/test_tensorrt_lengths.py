"""Attention that is told lengths: the same numbers as with a mask, and who takes such graphs."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, parser, shape_inference

from exporter.architectures.pooling import padding_behind
from exporter.building import build
from exporter.errors import ExportError, PlanFailed
from exporter.pipeline import ExportArgs, export
from exporter.tensorrt_graph import complaints, needed_version
from exporter.tensorrt_lengths import DOMAIN, OPERATOR, use_lengths
from exporter.tensorrt_operators import first_version
from exporter.tensorrt_plan import OLDEST_FOR_LENGTHS, Machine, refuse_machine
from runtime.errors import EngineUnavailable
from runtime.gpu import Gpu
from runtime.manifest import read_manifest
from runtime.profile import load_target_profile
from tests.exporter.tensorrt_stand_in import TensorRt

TARGET = load_target_profile("tensorrt-fp16-lengths")
_HEADS, _KV_HEADS, _SIZE = 4, 2, 8
# A padding mask, as the architectures write it: every token sees itself as well.
_MASK = """
    real = Cast <to = 9> (attention_mask)
    row = Unsqueeze (real, axes)
    size = Shape <start = 1, end = 2> (attention_mask)
    length = Squeeze (size)
    places = Range (none, length, one)
    here = Unsqueeze (places, first)
    there = Unsqueeze (places, second)
    own = {own} (here, there)
    seen = Or (row, own)
"""


def graph(own: str = "Equal", attention: str = "q, k, v, seen") -> ModelProto:
    """Attention of 4 heads that share 2, over a padding mask; a window with Less for `own`."""
    model = parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 23]>
        g (float[b, {_HEADS}, s, {_SIZE}] q, float[b, {_KV_HEADS}, s, {_SIZE}] k,
           float[b, {_KV_HEADS}, s, {_SIZE}] v, int64[b, s] attention_mask) => (float[b, h, s, d] y)
        <int64[2] axes = {{1, 2}}, int64[1] first = {{1}}, int64[1] second = {{0}},
         int64 none = {{0}}, int64 one = {{1}}>
        {{ {_MASK.format(own=own)} p = Identity (q) y = Attention <scale = 0.25> ({attention}) }}"""
    )
    return shape_inference.infer_shapes(model, data_prop=True)


def computed(model: ModelProto, inputs: Mapping[str, Any]) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)[0]


def test_real_tokens_get_what_a_mask_gives() -> None:
    """Behind padding; a row of padding alone is finite."""
    drawn = np.random.default_rng(0)
    lengths = np.array([5, 3, 1, 0])
    mask = (np.arange(5) < lengths[:, None]).astype(np.int64)
    inputs = {"attention_mask": mask} | {
        name: drawn.standard_normal((4, heads, 5, _SIZE)).astype(np.float32)
        for name, heads in (("q", _HEADS), ("k", _KV_HEADS), ("v", _KV_HEADS))
    }
    model = graph(attention="p, k, v, seen")
    wanted = computed(model, inputs)
    assert use_lengths(model) == 1
    assert complaints(model) == []
    assert needed_version(model) == OLDEST_FOR_LENGTHS == first_version([OPERATOR])
    onnx.checker.check_model(model)
    found = computed(model, inputs)
    # No kernel is asked for no key.
    model.graph.output.insert(
        0, helper.make_tensor_value_info("rows_lengths", TensorProto.INT32, ["b"])
    )
    assert computed(model, inputs).tolist() == [5, 3, 1, 1]
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(found[row, :, :length], wanted[row, :, :length], atol=1e-6)
    assert np.isfinite(found).all()


def test_the_operator_is_asked_as_tensorrt_wants_it() -> None:
    model = graph(attention="p, k, v, seen")
    use_lengths(model)
    (node,) = (node for node in model.graph.node if node.op_type == OPERATOR)
    assert (node.domain, len(node.attribute)) == (DOMAIN, 0)
    assert list(node.input)[2:] == ["v", "", "", "rows_lengths"]
    scaled = [one for one in model.graph.node if one.op_type == "Mul"]
    assert [list(one.input) for one in scaled] == [["p", "y.root"], ["k", "y.root"]]
    (root,) = (one for one in model.graph.initializer if one.name == "y.root")
    assert onnx.numpy_helper.to_array(root) == 0.5  # √0.25 of each


@pytest.mark.parametrize(
    ("own", "attention"), [("Less", "p, k, v, seen"), ("Equal", "p, k, v")], ids=["window", "none"]
)
def test_attention_without_a_padding_mask_stays(own: str, attention: str) -> None:
    model = graph(own, attention)
    before = model.SerializeToString()
    assert use_lengths(model) == 0
    assert model.SerializeToString() == before


def test_rows_are_turned_with_whatever_stands_in_them() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    ids, turned, index = padding_behind(torch.arange(8).view(2, 4), mask, 10 + mask)
    assert ids.tolist() == [[2, 3, 0, 1], [4, 5, 6, 7]]
    assert turned.tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]
    assert index.tolist() == [[11, 11, 10, 10], [11, 11, 11, 10]]


@pytest.mark.parametrize("version", ["10.16.1.11", "11.0.0.114"])
def test_an_older_tensorrt_is_refused(version: str) -> None:
    """It would take what the operator means, and read a mask."""
    machine = Machine(TensorRt(version), Gpu("NVIDIA H100", "9.0", "x86_64", "580"))
    told = rf"found TensorRT {version}, wanted 11\.1 .*tensorrt-cu13>=11\.1,<12.*, or choose "
    with pytest.raises(EngineUnavailable, match=told):
        refuse_machine(machine, TARGET)
    refuse_machine(Machine(TensorRt("11.4.0.106"), machine.gpu), TARGET)


@pytest.mark.usefixtures("machine")
def test_a_graph_with_a_mask_is_not_built_for_lengths(planless: Path) -> None:
    with pytest.raises(PlanFailed, match=r"attention by mask.*attention by lengths; export"):
        build(planless, TARGET.name, planless)


@pytest.mark.heavy
@pytest.mark.parametrize("family", ["llama", "modernbert"])
def test_a_checkpoint_is_exported_proven_and_built(
    checkpoints: dict[str, Path],
    family: str,
    tmp_path: Path,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Llama's rows are padded on the left; ModernBERT has layers with a window."""
    for bindings in (machine.trt, sys.modules["tensorrt"]):
        monkeypatch.setattr(bindings, "__version__", "11.4.0.106")
    export(str(checkpoints[family]), tmp_path / "out", ExportArgs(target=TARGET.name))
    kinds = [node.op_type for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node]
    assert kinds.count(OPERATOR) > 0
    assert ("Attention" in kinds) == (family == "modernbert")
    plan = build(tmp_path / "out", None, tmp_path / "out").plan
    assert plan is not None
    assert plan.target == read_manifest(tmp_path / "out").target == TARGET.name


@pytest.mark.heavy
def test_a_model_without_such_attention_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"found no attention with a padding mask .* Deberta"):
        export(str(checkpoints["deberta"]), tmp_path / "out", ExportArgs(target=TARGET.name))
