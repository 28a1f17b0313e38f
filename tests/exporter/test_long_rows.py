"""Attention of long rows in pieces: the same answers, in a fraction of the memory."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from exporter.long_rows import LONG, bound_attention, split_attention
from exporter.pipeline import Wish, export
from tests.tiny_checkpoints import write_llama

HEADS, SIZE = 4, 8


def attention(**attributes: int) -> ModelProto:
    """y = Attention of x with itself under `mask`; `input_ids` [batch, sequence] only counts."""
    shape = ["batch", HEADS, "sequence", SIZE]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Attention", ["x", "x", "x", "mask"], ["y"], name="a", **attributes)],
        "attention",
        [
            value("input_ids", TensorProto.INT64, ["batch", "sequence"]),
            value("x", TensorProto.FLOAT, shape),
            value("mask", TensorProto.BOOL, ["batch", 1, "sequence", "sequence"]),
        ],
        [value("y", TensorProto.FLOAT, shape)],
    )
    opset = [helper.make_opsetid("", 23)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def run(model: ModelProto, length: int) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(0)
    inputs = {
        "input_ids": np.zeros((1, length), np.int64),
        "x": random.normal(size=(1, HEADS, length, SIZE)).astype(np.float32),
        # Every row of the mask is its own, so that pieces cannot be mixed up.
        "mask": random.random((1, 1, length, length)) < 0.5,
    }
    return np.asarray(session.run(None, inputs)[0])


@pytest.mark.parametrize("length", [1, 17, LONG, LONG + 1, LONG + 15, LONG + 16, 3000])
def test_pieces_give_the_same_answer(length: int) -> None:
    model = attention()
    split_attention(model)
    onnx.checker.check_model(model)
    found, wanted = run(model, length), run(attention(), length)
    if length <= LONG:
        assert np.array_equal(found, wanted)
    assert np.abs(found - wanted).max() < 1e-6


def test_a_causal_node_is_left_alone() -> None:
    model = attention(is_causal=1)
    split_attention(model)
    assert [node.op_type for node in model.graph.node] == ["Attention"]


@pytest.fixture(scope="module")
def long_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("long")
    checkpoint = write_llama(root / "checkpoint", max_position_embeddings=4096)
    export(str(checkpoint), root / "out", Wish(max_tokens=4096))
    return root / "out"


def test_an_export_for_long_rows_is_proven_at_its_limit(long_artifact: Path) -> None:
    graph = onnx.load(long_artifact / "model.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert "If" in kinds
    assert "Attention" not in kinds


def peak_mb(model: Path, length: int) -> float:
    """The most memory that a fresh process needs for one row, in MB."""
    # VmHWM, not getrusage: that one remembers the process that this one was forked from.
    code = (
        "import sys, numpy as np, onnxruntime\n"
        "s = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "n = int(sys.argv[2])\n"
        "s.run(None, {i.name: np.ones((1, n), np.int64) for i in s.get_inputs()})\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print(next(line.split()[1] for line in lines if line.startswith('VmHWM')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model), str(length)],
        capture_output=True,
        check=True,
        text=True,
    )
    return float(done.stdout) / 1024


def test_memory_of_a_long_row_is_bounded(
    long_artifact: Path, rank_artifact: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(rank_artifact, whole)
    pieces = tmp_path / "pieces"
    shutil.copytree(rank_artifact, pieces)
    bound_attention(pieces)
    short = peak_mb(whole / "model.onnx", 64)
    grown = peak_mb(whole / "model.onnx", 4096) - short
    assert peak_mb(pieces / "model.onnx", 4096) - short < 0.6 * grown
