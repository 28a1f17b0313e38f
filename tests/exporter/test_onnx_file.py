"""The graph: operators, dynamic shapes, precision, external data."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from exporter import onnx_file
from exporter.checkpoint import load_model, read_checkpoint
from exporter.onnx_file import move_to_onnx
from tests.tiny_checkpoints import write_llama


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_llama_becomes_fused_operators_without_repeated_heads(rank_artifact: Path) -> None:
    found = operators(rank_artifact / "model.onnx")
    assert found["RMSNormalization"] == 5
    assert found["RotaryEmbedding"] == 4
    assert found["Attention"] == 2
    (model,) = [onnx.load(rank_artifact / "model.onnx")]
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 23)]


def test_nothing_of_this_machine_is_in_the_graph(rank_artifact: Path) -> None:
    assert (
        str(Path(__file__).parents[2]).encode() not in (rank_artifact / "model.onnx").read_bytes()
    )


@pytest.mark.parametrize("artifact", ["rank_artifact", "pair_artifact", "half_artifact"])
def test_inputs_and_output_are_dynamic(artifact: str, request: pytest.FixtureRequest) -> None:
    session = onnxruntime.InferenceSession(request.getfixturevalue(artifact) / "model.onnx")
    assert {tuple(i.shape) for i in session.get_inputs()} == {("batch", "sequence")}
    assert {i.type for i in session.get_inputs()} == {"tensor(int64)"}
    (output,) = session.get_outputs()
    assert (output.name, output.type, output.shape) == ("logits", "tensor(float)", ["batch", 1])


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_graph_agrees_with_pytorch_for_any_shape_and_padding(
    tiny_llama_checkpoint: Path, rank_artifact: Path, side: str
) -> None:
    model = load_model(read_checkpoint(str(tiny_llama_checkpoint)))
    session = onnxruntime.InferenceSession(rank_artifact / "model.onnx")
    generator = torch.Generator().manual_seed(0)
    for rows, length in ((1, 1), (1, 3), (3, 7), (7, 30), (2, 200)):
        ids = torch.randint(2, 300, (rows, length), generator=generator)
        pads = torch.arange(rows) * (length // (rows + 1))
        columns = torch.arange(length)
        if side == "right":
            columns = columns.flip(0)
        mask = (columns >= pads.unsqueeze(1)).long()
        found = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
        with torch.inference_mode():
            np.testing.assert_allclose(found, model(ids, mask).numpy(), atol=5e-6)


def test_weights_over_the_threshold_go_into_one_relocatable_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_BYTES", 1024)
    checkpoint = write_llama(tmp_path / "checkpoint", num_hidden_layers=1)
    model = load_model(read_checkpoint(str(checkpoint)))
    there = tmp_path / "there"
    there.mkdir()
    ids = torch.arange(2, 8).reshape(2, 3)
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        wanted = model(ids, mask).numpy()
    move_to_onnx(model, there)
    assert all(p.numel() == 0 for p in model.parameters())
    moved = tmp_path / "moved"
    shutil.move(there, moved)
    assert sorted(p.name for p in moved.iterdir()) == ["model.onnx", "model.onnx.data"]
    session = onnxruntime.InferenceSession(moved / "model.onnx")
    found = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
    np.testing.assert_allclose(found, wanted, atol=5e-6)
