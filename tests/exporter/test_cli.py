"""Exit codes and messages of rerank-export."""

import shutil
from pathlib import Path

import pytest
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from exporter import pipeline
from exporter.cli import main
from runtime.manifest import read_manifest
from tests.exporter.conftest import ReadyGraph


def test_export_verify_inspect(
    tiny_llama_checkpoint: Path,
    rank_artifact: Path,
    tmp_path: Path,
    ready_graph: ReadyGraph,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ready_graph(rank_artifact)
    out = str(tmp_path / "out")
    assert main(["export", str(tiny_llama_checkpoint), "--out", out, "--max-tokens", "128"]) == 0
    output = capsys.readouterr()
    assert "proven against transformers " in output.out
    assert ", on onnxruntime-cpu: " in output.out
    for stage in ("load the checkpoint", "write the ONNX graph", "prove parity"):
        assert f"rerank-export: {stage}" in output.err
    assert main(["verify", out]) == 0
    assert "intact" in capsys.readouterr().out
    assert main(["inspect", out]) == 0
    shown = capsys.readouterr().out
    assert "max_tokens       128" in shown
    assert "kendall_tau 1" in shown
    assert read_manifest(rank_artifact).version not in shown  # another limit, other scores


def test_a_changed_byte_is_named_without_a_traceback(
    rank_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(rank_artifact, tmp_path / "copy")
    content = bytearray((copy / "model.onnx").read_bytes())
    content[-1] ^= 1
    (copy / "model.onnx").write_bytes(content)
    assert main(["verify", str(copy)]) == 1
    output = capsys.readouterr().err.splitlines()
    assert output[-1].startswith("rerank-export: model.onnx has changed")


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "/no/such/checkpoint", "--out", "OUT"],
        ["quantize", "/no/such/artifact", "--out", "OUT", "--target", "cpu-int8"],
        ["verify", "/no/such/artifact"],
        ["inspect", "/no/such/artifact"],
    ],
)
def test_a_wrong_path_is_one_line_and_exit_1_before_pytorch_loads(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(tmp_path / "out") if a == "OUT" else a for a in arguments]
    assert main(given) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rerank-export: ")
    assert Path(arguments[1]).name in line


def test_the_artifact_that_a_command_replaces_is_named(
    rank_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(rank_artifact, out := tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert main(["export", str(tmp_path / "empty"), "--out", str(out)]) == 1
    version = read_manifest(out).version
    assert f"{out} holds artifact {version}, which" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["export", "somewhere"],
        ["export", "somewhere", "--out", "x", "--target", "no-such"],
        ["export", "somewhere", "--out", "x", "--max-tokens", "0"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_an_interrupt_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "export", interrupted)
    assert main(["export", "some/where", "--out", str(tmp_path)]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_panic_of_the_tokenizer_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def panicking(*_: object) -> None:
        Split(Regex("(a|aa)+b"), "isolated").pre_tokenize_str("a" * 50)

    monkeypatch.setattr(pipeline, "export", panicking)
    assert main(["export", "some/where", "--out", str(tmp_path)]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("rerank-export: the model's tokenizer gave up on a text")
