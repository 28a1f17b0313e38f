"""Attention of long rows in pieces: the same answers, in a fraction of the memory."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from exporter.long_rows import LONG_ROW_TOKENS, chunk_attention, chunk_model
from exporter.pipeline import ExportArgs, export, verify
from exporter.proof import Proof
from exporter.proving_engine import computable
from exporter.report import Parity
from runtime.manifest import read_manifest
from runtime.profile import load_target_profile
from tests.exporter.conftest import ReadyGraph
from tests.tiny_checkpoints import write_llama

HEADS, SIZE = 4, 8
JUST_LONG = LONG_ROW_TOKENS + 16


def attention(element: int = TensorProto.FLOAT, **attributes: int) -> ModelProto:
    """y = Attention of x with itself under `mask`; `input_ids` [batch, sequence] only counts."""
    shape = ["batch", HEADS, "sequence", SIZE]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Attention", ["x", "x", "x", "mask"], ["y"], name="a", **attributes)],
        "attention",
        [
            value("input_ids", TensorProto.INT64, ["batch", "sequence"]),
            value("x", element, shape),
            value("mask", TensorProto.BOOL, ["batch", 1, "sequence", "sequence"]),
        ],
        [value("y", element, shape)],
    )
    opset = [helper.make_opsetid("", 23)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def causal_attention() -> ModelProto:
    """The same without a mask, in the operator's causal form."""
    model = attention(is_causal=1)
    del model.graph.node[0].input[3]
    return model


def run(model: ModelProto, length: int, dtype: type = np.float32) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(0)
    inputs = {
        "input_ids": np.zeros((1, length), np.int64),
        "x": random.normal(size=(1, HEADS, length, SIZE)).astype(dtype),
        # Every row of the mask is its own, so that pieces cannot be mixed up.
        "mask": random.random((1, 1, length, length)) < 0.5,
    }
    return np.asarray(session.run(None, inputs)[0])


@pytest.mark.parametrize(
    "length",
    [1, 17, LONG_ROW_TOKENS, LONG_ROW_TOKENS + 1, LONG_ROW_TOKENS + 15, LONG_ROW_TOKENS + 16, 3000],
)
def test_pieces_give_the_same_answer(length: int) -> None:
    model = attention()
    chunk_model(model)
    onnx.checker.check_model(model)
    found, wanted = run(model, length), run(attention(), length)
    if length <= LONG_ROW_TOKENS:
        assert np.array_equal(found, wanted)
    assert np.abs(found - wanted).max() < 1e-6


def test_half_precision_stays_half_precision() -> None:
    wanted = run(attention(TensorProto.FLOAT16), LONG_ROW_TOKENS + 1, np.float16)
    model = attention(TensorProto.FLOAT16)
    chunk_model(model)
    onnx.checker.check_model(model)
    found = run(model, LONG_ROW_TOKENS + 1, np.float16)
    assert found.dtype == np.float16
    assert np.abs(found.astype(np.float32) - wanted.astype(np.float32)).max() < 1e-3


@pytest.mark.parametrize("length", [1, LONG_ROW_TOKENS, LONG_ROW_TOKENS + 1, 3000])
def test_pieces_of_a_causal_node_see_what_precedes_them(length: int) -> None:
    model, wanted = causal_attention(), run(causal_attention(), length)
    chunk_model(model)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node][-1] == "If"
    assert np.abs(run(model, length) - wanted).max() < 1e-6


@pytest.mark.parametrize("length", [17, LONG_ROW_TOKENS + 16, 3000])
def test_the_pooled_token_s_one_query_is_computed_at_once(length: int) -> None:
    """That of the last layer, where only this token's state is wanted."""
    model = attention()
    value, one = helper.make_tensor_value_info, ["batch", HEADS, 1, SIZE]
    model.graph.node[0].input[0] = "query"
    model.graph.input[2].CopyFrom(value("mask", TensorProto.BOOL, ["batch", 1, 1, "sequence"]))
    model.graph.input.append(value("query", TensorProto.FLOAT, one))
    model.graph.output[0].CopyFrom(value("y", TensorProto.FLOAT, one))
    random = np.random.default_rng(0)
    inputs = {
        "input_ids": np.zeros((1, length), np.int64),
        "x": random.normal(size=(1, HEADS, length, SIZE)).astype(np.float32),
        "query": random.normal(size=(1, HEADS, 1, SIZE)).astype(np.float32),
        "mask": random.random((1, 1, 1, length)) < 0.5,
    }
    answers = []
    for changed in (False, True):
        if changed:
            chunk_model(model)
            onnx.checker.check_model(model)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        answers.append(np.asarray(session.run(None, inputs)[0]))
    np.testing.assert_array_equal(*answers)


@pytest.mark.heavy
@pytest.mark.parametrize("changes", [{"pooling": "last"}, {"pooling": "cls"}, {"is_causal": True}])
def test_models_of_one_token_are_exported_for_long_rows(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", max_position_embeddings=4096, **changes)
    export(str(checkpoint), tmp_path / "out", ExportArgs(max_tokens=JUST_LONG))
    assert read_manifest(tmp_path / "out").max_tokens == JUST_LONG


def test_a_causal_node_with_a_mask_is_left_alone() -> None:
    model = attention(is_causal=1)
    chunk_model(model)
    assert [node.op_type for node in model.graph.node] == ["Attention"]


@pytest.fixture
def long_checkpoint(tmp_path: Path) -> Path:
    """The tiny Llama, for longer rows: its graph is the same."""
    return write_llama(tmp_path / "checkpoint", max_position_embeddings=4096)


def kinds(directory: Path) -> set[str]:
    return {node.op_type for node in onnx.load(directory / "model.onnx").graph.node}


def test_an_export_for_long_rows_is_proven_at_its_limit(
    long_checkpoint: Path, rank_artifact: Path, tmp_path: Path, ready_graph: ReadyGraph
) -> None:
    ready_graph(rank_artifact)
    export(str(long_checkpoint), tmp_path / "out", ExportArgs(max_tokens=JUST_LONG))
    found = kinds(tmp_path / "out")
    assert "If" in found
    assert "Attention" not in found


@pytest.fixture
def proven(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The operators of each graph whose scores were compared."""
    found: list[set[str]] = []
    check = Proof.check_engine

    def checking(self: Proof, report: Parity, directory: Path, **given: Any) -> None:
        found.append(kinds(directory))
        check(self, report, directory, **given)

    monkeypatch.setattr(Proof, "check_engine", checking)
    return found


def test_a_short_graph_for_a_gpu_is_proven_as_it_is(
    proven: list[set[str]], planless: Path, tiny_llama_checkpoint: Path
) -> None:
    verify(planless, str(tiny_llama_checkpoint), None)
    assert proven == [kinds(planless)]


@pytest.mark.heavy
def test_a_long_graph_for_a_gpu_is_proven_in_chunks_and_is_unchanged(
    proven: list[set[str]],
    long_checkpoint: Path,
    planless: Path,
    tmp_path: Path,
    ready_graph: ReadyGraph,
) -> None:
    ready_graph(planless)
    args = ExportArgs(target="tensorrt-fp16-4096", max_tokens=JUST_LONG)
    export(str(long_checkpoint), tmp_path / "out", args)
    verify(tmp_path / "out", str(long_checkpoint), None)
    assert len(proven) == 2
    for on_the_cpu in proven:
        assert "If" in on_the_cpu
    assert kinds(tmp_path / "out") == kinds(planless)
    # Nothing is left of the copy.
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        "model.onnx",
        "parity.json",
        "reference.json",
        "tokenizer",
    ]


@pytest.mark.parametrize("linked", [True, False])
def test_verifying_in_pieces_writes_nothing_in_the_artifact(
    rank_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    def refuse(*_: object, **options: object) -> None:
        raise PermissionError

    def given() -> list[tuple[Path, int, int]]:
        found = [(path, path.stat()) for path in sorted(artifact.rglob("*"))]
        return [(path, one.st_size, one.st_mtime_ns) for path, one in found]

    artifact = tmp_path / "artifact"
    shutil.copytree(rank_artifact, artifact)
    manifest = msgspec.structs.replace(
        read_manifest(artifact), target="tensorrt-fp16-4096", max_tokens=JUST_LONG
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    if not linked:
        monkeypatch.setattr("os.link", refuse)
    before = given()
    target = load_target_profile(manifest.target)
    with computable(artifact, manifest, target, "onnxruntime-cpu", within=None) as proven:
        assert proven.parent == temporary
        nodes = onnx.load(proven / "model.onnx").graph.node
        assert "If" in {node.op_type for node in nodes}
        assert (proven / "tokenizer" / "tokenizer.json").is_file()
    assert given() == before
    assert not list(temporary.iterdir())


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


def test_memory_of_a_long_row_is_bounded(rank_artifact: Path, tmp_path: Path) -> None:
    pieces = shutil.copytree(rank_artifact, tmp_path / "pieces")
    chunk_attention(pieces)
    short = peak_mb(rank_artifact / "model.onnx", 64)
    grown = peak_mb(rank_artifact / "model.onnx", 4096) - short
    assert peak_mb(pieces / "model.onnx", 4096) - short < 0.6 * grown
