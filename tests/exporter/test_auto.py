"""The target that is chosen by trying, on the tiny random checkpoint."""

from pathlib import Path

import pytest

from exporter import auto
from exporter.auto import CANDIDATES, export_fastest
from exporter.cli import main
from exporter.errors import NothingFits, OutputRefused, ParityFailed
from exporter.pipeline import Wish, verify
from exporter.report import Candidate, read_report
from runtime.manifest import read_manifest
from runtime.profile import load_target_profile

SPEEDS = {
    "cpu-fp32": 100.0,
    "cpu-fp32-openvino": 110.0,
    "cpu-bf16": 300.0,
    "cpu-int8": 200.0,
    "cpu-int8-openvino": 250.0,
}


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Candidates in the order that they were exported, each as float32 and as fast as in SPEEDS;
    cpu-bf16 fails its ranking rung."""
    names: list[str] = []
    real = auto.export

    def export(source: str, out: Path, wish: Wish) -> object:
        names.append(wish.target)
        if wish.target == "cpu-bf16":
            raise ParityFailed("ranking", "the order is lost")
        return real(source, out, Wish(max_tokens=64))

    monkeypatch.setattr(auto, "export", export)
    monkeypatch.setattr(auto, "_tokens_per_s", lambda directory: SPEEDS[directory.name])
    return names


def test_the_fastest_that_is_proven_is_kept_and_says_why(
    tried: list[str], tiny_llama_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_fastest(str(tiny_llama_checkpoint), out, Wish())
    assert tuple(tried) == CANDIDATES
    assert read_report(out).candidates == [
        Candidate(target="cpu-fp32", tokens_per_s=100.0),
        Candidate(target="cpu-fp32-openvino", tokens_per_s=110.0),
        Candidate(
            target="cpu-bf16", refused="parity failed at the rung 'ranking': the order is lost"
        ),
        Candidate(target="cpu-int8", tokens_per_s=200.0),
        Candidate(target="cpu-int8-openvino", tokens_per_s=250.0),
    ]
    verify(out, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_machine_on_which_nothing_is_proven(
    tried: list[str], tiny_llama_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "CANDIDATES", ("cpu-bf16",))
    with pytest.raises(NothingFits, match="cpu-bf16: parity failed"):
        export_fastest(str(tiny_llama_checkpoint), tmp_path / "out", Wish())
    assert tried == ["cpu-bf16"]
    assert not any(tmp_path.iterdir())


def test_foreign_files_are_kept(
    tried: list[str], tiny_llama_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputRefused):
        export_fastest(str(tiny_llama_checkpoint), tmp_path, Wish())
    assert not tried


def test_on_the_command_line_with_real_measurements(
    tiny_llama_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(auto, "CANDIDATES", ("cpu-fp32", "cpu-int8"))
    monkeypatch.setattr(auto, "_MEASURE_S", 0.0)
    out = tmp_path / "out"
    code = main(["export", str(tiny_llama_checkpoint), "--out", str(out), "--target", "cpu-auto"])
    said = capsys.readouterr()
    assert code == 0, said.err
    candidates = read_report(out).candidates
    assert isinstance(candidates, list)
    assert [one.target for one in candidates] == ["cpu-fp32", "cpu-int8"]
    fastest = max(candidates, key=lambda one: one.tokens_per_s or 0.0)
    assert read_manifest(out).target == fastest.target
    assert f"keep {fastest.target}: " in said.err
    assert main(["inspect", str(out)]) == 0
    assert "tokens/s" in capsys.readouterr().out


def test_an_engine_cannot_be_named_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wish = ["--target", "cpu-auto", "--engine", "onnxruntime-cpu"]
    assert main(["export", "anything", "--out", str(tmp_path / "out"), *wish]) == 1
    assert "leave one of them out" in capsys.readouterr().err


@pytest.mark.parametrize("name", CANDIDATES)
def test_candidates_are_targets_of_the_cpu(name: str) -> None:
    assert load_target_profile(name).engine.startswith(("onnxruntime-cpu", "openvino-"))
