"""Model repositories for Triton, their configurations read by Triton's own message."""

import hashlib
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tritonclient.grpc.model_config_pb2 as model_config
from google.protobuf import text_format

from exporter.cli import main
from exporter.errors import OutputRefused, RepositoryRefused
from exporter.triton.repository import write_repository
from runtime.engines import open_engine
from runtime.errors import EngineUnavailable, FileChanged
from runtime.manifest import read_manifest
from runtime.shapes import PLACES_INPUT

MODEL = "llama_3_2_nv_rerankqa_1b_v2"


def config_of(model: Path) -> Any:
    return text_format.Parse((model / "config.pbtxt").read_text(), model_config.ModelConfig())


def ends(tensors: Any) -> dict[str, tuple[str, list[int], bool]]:
    names = model_config.DataType.Name
    return {
        t.name: (names(t.data_type), list(t.dims), getattr(t, "optional", False)) for t in tensors
    }


@pytest.fixture
def with_plan(rank_artifact: Path, tmp_path: Path) -> Path:
    """The artifact with a plan in it, as an export for TensorRT leaves it."""
    copy = shutil.copytree(rank_artifact, tmp_path / "with-plan")
    (copy / "model.plan").write_bytes(b"plan")
    manifest = read_manifest(copy)
    digest = "sha256:" + hashlib.sha256(b"plan").hexdigest()
    changed = msgspec.structs.replace(manifest, files={**manifest.files, "model.plan": digest})
    (copy / "manifest.json").write_bytes(msgspec.json.encode(changed))
    return copy


def test_the_python_model_has_nims_tensors_and_the_artifact(
    rank_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model_repository"
    for _ in range(2):  # a second time replaces the first
        assert main(["triton", str(rank_artifact), "--out", str(out)]) == 0
    assert MODEL in capsys.readouterr().out
    config = config_of(out / MODEL)
    assert config.name == MODEL
    assert config.backend == "python"
    assert config.max_batch_size == 64
    assert config.HasField("dynamic_batching")
    assert ends(config.input) == {
        "query": ("TYPE_STRING", [1], True),
        "passage": ("TYPE_STRING", [1], True),
        "input_ids": ("TYPE_INT64", [-1], True),
        "attention_mask": ("TYPE_INT64", [-1], True),
    }
    assert ends(config.output) == {
        "index": ("TYPE_INT32", [1], False),
        "logit": ("TYPE_FP32", [1], False),
        "token_count": ("TYPE_INT32", [1], False),
        "logits": ("TYPE_FP32", [1], False),
    }
    copied = out / MODEL / "1" / "artifact"
    assert read_manifest(copied) == read_manifest(rank_artifact)
    assert sorted(p.name for p in copied.iterdir()) == sorted(
        p.name for p in rank_artifact.iterdir()
    )
    compile((out / MODEL / "1" / "model.py").read_text(), "model.py", "exec")


@pytest.mark.parametrize(
    ("platform", "named", "file"),
    [
        ("onnxruntime", "onnxruntime_onnx", "model.onnx"),
        ("tensorrt", "tensorrt_plan", "model.plan"),
    ],
)
def test_graph_and_plan_are_for_tritons_own_backends(
    with_plan: Path, tmp_path: Path, platform: Any, named: str, file: str
) -> None:
    model = write_repository(with_plan, tmp_path / "out", platform)
    config = config_of(model)
    assert (config.platform, config.backend, config.max_batch_size) == (named, "", 64)
    assert ends(config.input) == {
        "input_ids": ("TYPE_INT64", [-1], False),
        "attention_mask": ("TYPE_INT64", [-1], False),
    }
    assert ends(config.output) == {"logits": ("TYPE_FP32", [1], False)}
    assert (model / "1" / file).is_file()
    assert not (model / "1" / "model.py").exists()


@pytest.fixture
def packed(with_plan: Path) -> Path:
    """The artifact as one of cuda-fp16-packed says it: with the places of its tokens."""
    manifest = read_manifest(with_plan)
    changed = msgspec.structs.replace(manifest, inputs=[*manifest.inputs, PLACES_INPUT])
    (with_plan / "manifest.json").write_bytes(msgspec.json.encode(changed))
    return with_plan


def test_the_python_model_of_a_packed_graph_takes_no_places(packed: Path, tmp_path: Path) -> None:
    config = config_of(write_repository(packed, tmp_path / "out"))
    names = [one.name for one in config.input]
    assert names == ["query", "passage", "input_ids", "attention_mask"]


@pytest.mark.parametrize("platform", ["onnxruntime", "tensorrt"])
def test_a_packed_graph_is_not_for_tritons_own_backends(
    packed: Path, tmp_path: Path, platform: Any
) -> None:
    with pytest.raises(RepositoryRefused, match="found a packed graph"):
        write_repository(packed, tmp_path / "out", platform)
    assert not (tmp_path / "out").exists()


def test_what_cannot_become_a_model_is_refused(
    rank_artifact: Path, embed_artifact: Path, tmp_path: Path
) -> None:
    with pytest.raises(RepositoryRefused, match=r"needs model\.plan"):
        write_repository(rank_artifact, tmp_path, "tensorrt")
    with pytest.raises(RepositoryRefused, match="found an embedder"):
        write_repository(embed_artifact, tmp_path)
    copy = shutil.copytree(rank_artifact, tmp_path / "copy")
    (copy / "tokenizer" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(FileChanged):
        write_repository(copy, tmp_path)
    precious = tmp_path / "precious" / MODEL
    precious.mkdir(parents=True)
    with pytest.raises(OutputRefused, match="move it away"):
        write_repository(rank_artifact, precious.parent)
    assert not (tmp_path / MODEL).exists()


@pytest.mark.parametrize("platform", ["python", "onnxruntime"])
@pytest.mark.parametrize("name", ["1/notes.txt", "1/artifact/mine/y", "mine"])
def test_a_users_file_in_a_model_is_not_touched(
    rank_artifact: Path, tmp_path: Path, platform: Any, name: str
) -> None:
    out = tmp_path / "out"
    mine = write_repository(rank_artifact, out, platform) / name
    cached = out / MODEL / "1" / "__pycache__" / "model.cpython-311.pyc"
    cached.parent.mkdir()
    cached.touch()
    write_repository(rank_artifact, out, platform)
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("years of work")
    with pytest.raises(OutputRefused, match="move it away"):
        write_repository(rank_artifact, out, platform)
    assert mine.read_text() == "years of work"


def test_start_sh_passes_flags_and_ports_on(rank_artifact: Path, tmp_path: Path) -> None:
    write_repository(rank_artifact, tmp_path / "out")
    start = tmp_path / "out" / "start.sh"
    assert start.stat().st_mode & stat.S_IXUSR
    given = {
        "PATH": os.environ["PATH"],
        "TRITONSERVER": "echo",
        "NIM_TRITON_RATE_LIMIT": "execution_count",
        "NIM_TRITON_LOG_VERBOSE": "1",
        "TRITON_METRICS_PORT": "9005",
    }
    done = subprocess.run([start, "--more"], env=given, capture_output=True, text=True, check=True)
    output = done.stdout.split()
    assert f"--model-repository={tmp_path / 'out'}" in output
    assert "--rate-limit=execution_count" in output
    assert "--log-verbose=1" in output
    assert {"--http-port=8003", "--grpc-port=8004", "--metrics-port=9005"} <= set(output)
    assert {a for a in output if "-address=" in a} == {
        f"--{one}-address=127.0.0.1" for one in ("http", "grpc", "metrics")
    }
    assert output[-1] == "--more"


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port of this machine that is taken and refuses connections."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("triton", "found no address"),
        ("triton=ftp://127.0.0.1:{port}", "found no address"),
        ("triton=http://127.0.0.1:{port}", "does not offer the model"),
        ("triton=grpc://127.0.0.1:{port}", "does not offer the model"),
    ],
)
def test_no_triton_is_no_engine(
    tmp_path: Path, refusing_port: int, wanted: str, message: str
) -> None:
    with pytest.raises(EngineUnavailable, match=message):
        open_engine(wanted.format(port=refusing_port), tmp_path)
