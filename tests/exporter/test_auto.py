"""The target that is chosen by trying, on the tiny random checkpoint."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import onnx
import pytest

from exporter import auto, onnx_file, target_graph
from exporter.answers import Reference, Tokens
from exporter.auto import (
    CANDIDATES,
    _CachedWitness,
    _CandidateRun,
    _measure,
    _SharedGraphs,
    export_fastest,
)
from exporter.cli import main
from exporter.draft import Draft
from exporter.errors import NoTargetProven, OutputRefused, ParityFailed
from exporter.library_texts import candidate_groups, mixed_group
from exporter.parity_texts import Group, parity_groups
from exporter.pipeline import ExportArgs, verify
from exporter.reference import ask_witness
from exporter.report import Candidate, read_report
from runtime import opening
from runtime.errors import EngineError
from runtime.manifest import read_manifest
from runtime.model import Model
from runtime.profile import TargetProfile, load_target_profile
from tests.exporter.conftest import ReadyGraph

SPEEDS = {
    "cpu-fp32": 100.0,
    "cpu-fp32-openvino": 110.0,
    "cpu-bf16": 300.0,
    "cpu-int8": 200.0,
    "cpu-int8-openvino": 250.0,
}


@pytest.fixture
def tried(rank_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Candidates in the order that they were exported, each a copy of the artifact for cpu-fp32
    and as fast as in SPEEDS; cpu-bf16 fails its ranking rung."""
    names: list[str] = []

    def export(source: str, out: Path, args: ExportArgs, *_: object) -> None:
        names.append(args.target)
        if args.target == "cpu-bf16":
            raise ParityFailed("ranking", "the order is lost")
        shutil.copytree(rank_artifact, out)

    def measured(model: Model, group: Group) -> float:
        return SPEEDS[opened[-1]]

    def open_model(directory: Path) -> Model:
        opened.append(directory.name)
        return opening.open_model(directory)

    opened: list[str] = []
    monkeypatch.setattr(auto, "export", export)
    monkeypatch.setattr(auto, "open_model", open_model)
    monkeypatch.setattr(auto, "tokens_per_s", measured)
    monkeypatch.setattr(auto, "_MEASURE_S", 0.0)
    return names


def test_the_fastest_that_is_proven_is_kept_and_says_why(
    tried: list[str], tiny_llama_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_fastest(str(tiny_llama_checkpoint), out, ExportArgs())
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
    with pytest.raises(NoTargetProven, match="cpu-bf16: parity failed"):
        export_fastest(str(tiny_llama_checkpoint), tmp_path / "out", ExportArgs())
    assert tried == ["cpu-bf16"]
    assert not any(tmp_path.iterdir())


class Clock:
    """A time that passes only where a turn takes some; replaces the module `time`."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[str]]:
    """Measures three candidates whose every turn takes these seconds; whose turns there were."""

    def measure(turn_s: float) -> list[str]:
        clock, taken = Clock(), list[str]()

        def take_turn(one: _CandidateRun, group: Group | None) -> Group:
            clock.now += turn_s
            taken.append(one.target)
            one.speeds.append(1.0)
            return group or mixed_group(2, 64)

        monkeypatch.setattr(auto, "time", clock)
        monkeypatch.setattr(auto, "_take_turn", take_turn)
        _measure([_CandidateRun(name, Path(name)) for name in "abc"])
        return taken

    return measure


def test_candidates_take_turns_for_a_minute(turns: Callable[[float], list[str]]) -> None:
    assert turns(6.0) == [*"abc", *"cba", *"abc"]


def test_slow_candidates_have_one_turn_each(turns: Callable[[float], list[str]]) -> None:
    assert turns(100.0) == [*"abc"]


def test_one_that_cannot_compute_falls_out_of_the_next_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()

    def take_turn(one: _CandidateRun, group: Group | None) -> Group:
        clock.now += 6.0
        if one.target == "b" and one.speeds:
            raise EngineError("no memory")
        one.speeds.append(1.0)
        return group or mixed_group(2, 64)

    monkeypatch.setattr(auto, "time", clock)
    monkeypatch.setattr(auto, "_take_turn", take_turn)
    tried = [_CandidateRun(name, Path(name)) for name in "ab"]
    _measure(tried)
    assert [one.tokens_per_s for one in tried] == [1.0, None]
    assert tried[1].refused == "no memory"


def test_the_checkpoint_is_asked_once_for_all_that_any_target_wants(
    rank_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = read_manifest(rank_artifact)
    quantized = msgspec.structs.replace(source, precision="int8")
    base, more = parity_groups(source.max_tokens), candidate_groups(source.max_tokens)
    asked = []

    def ask(found: Draft, *_: object, unwitnessed: bool) -> Reference:
        asked.append(found.manifest.precision)
        groups = (*base, *more)
        tokens = [[Tokens([1], None) for _ in group.passages] for group in groups]
        return Reference("a witness", groups, tokens, [np.zeros((len(rows), 1)) for rows in tokens])

    monkeypatch.setattr(auto, "ask_witness", ask)
    asking: Any = _CachedWitness()
    checkpoint: Any = None
    for manifest, groups in ((source, base), (quantized, (*base, *more))):
        draft = Draft(manifest, checkpoint, checkpoint, None)
        assert asking(draft, checkpoint, unwitnessed=False).groups == groups
    assert asked == ["int8"]


def test_engines_share_a_graph_and_int8_begins_with_it(
    rank_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs, done = _SharedGraphs(), list[str]()
    manifest = read_manifest(rank_artifact)

    def write(_: object, target: TargetProfile, directory: Path) -> None:
        done.append(f"write {target.name}")
        for file in rank_artifact.glob("model.onnx*"):
            shutil.copyfile(file, directory / file.name)

    def round_graph(directory: Path, _: object, target: TargetProfile) -> None:
        done.append(f"round {target.name}")
        for file in directory.glob("model.onnx*"):
            file.unlink()
            file.write_text(target.precision)

    monkeypatch.setattr(auto, "write_graph", write)
    monkeypatch.setattr(auto, "round_graph", round_graph)
    monkeypatch.setattr(target_graph, "unchunk_attention", lambda _: None)
    checkpoint: Any = None
    made = {}
    for name in ("cpu-bf16", "cpu-fp32", "cpu-int8", "cpu-int8-openvino"):
        made[name] = tmp_path / name
        made[name].mkdir()
        graphs(checkpoint, manifest, load_target_profile(name), made[name])
        if name != "cpu-bf16":  # its proof has failed, and nothing of it is left
            graphs.add(name, made[name])
    assert done == [
        *("write cpu-bf16", "round cpu-bf16", "write cpu-fp32", "round cpu-fp32"),
        "round cpu-int8",
    ]
    files = {name: (place / "model.onnx").read_bytes() for name, place in made.items()}
    assert files["cpu-int8"] == files["cpu-int8-openvino"] == b"int8"
    assert files["cpu-fp32"] == b"fp32"


def test_int8_is_rounded_from_a_graph_whose_weights_others_share(
    rank_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large weights lie beside the graph, and the package onnx refuses files with several links."""
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_BYTES", 1024)
    first = tmp_path / "first"
    first.mkdir()
    onnx_file.save_graph(onnx.load(rank_artifact / "model.onnx"), first / "model.onnx")
    graphs, checkpoint = _SharedGraphs(), cast(Any, None)
    graphs.add("cpu-fp32", first)
    places = {}
    for name in ("cpu-fp32-openvino", "cpu-int8", "cpu-int8-openvino"):
        target = load_target_profile(name)
        manifest = msgspec.structs.replace(read_manifest(rank_artifact), precision=target.precision)
        place = places[name] = shutil.copytree(rank_artifact, tmp_path / name)
        (place / "model.onnx").unlink()
        graphs(checkpoint, manifest, target, place)
        graphs.add(name, place)
    links = {name: (place / "model.onnx.data").stat().st_ino for name, place in places.items()}
    assert links["cpu-fp32-openvino"] == (first / "model.onnx.data").stat().st_ino
    assert links["cpu-int8"] == links["cpu-int8-openvino"] != links["cpu-fp32-openvino"]


def test_foreign_files_are_kept(
    tried: list[str], tiny_llama_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputRefused):
        export_fastest(str(tiny_llama_checkpoint), tmp_path, ExportArgs())
    assert not tried


@pytest.mark.heavy
def test_on_the_command_line_with_real_measurements(
    tiny_llama_checkpoint: Path,
    rank_artifact: Path,
    tmp_path: Path,
    ready_graph: ReadyGraph,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ready_graph(rank_artifact)
    monkeypatch.setattr(auto, "CANDIDATES", ("cpu-fp32", "cpu-int8"))
    monkeypatch.setattr(auto, "_MEASURE_S", 0.0)
    asked = []

    def counted(found: Draft, *others: Any, **named: Any) -> Reference:
        asked.append(found)
        return ask_witness(found, *others, **named)

    monkeypatch.setattr(auto, "ask_witness", counted)
    out = tmp_path / "out"
    code = main(["export", str(tiny_llama_checkpoint), "--out", str(out), "--target", "cpu-auto"])
    output = capsys.readouterr()
    assert code == 0, output.err
    candidates = read_report(out).candidates
    assert isinstance(candidates, list)
    assert [one.target for one in candidates] == ["cpu-fp32", "cpu-int8"]
    fastest = max(candidates, key=lambda one: one.tokens_per_s or 0.0)
    assert read_manifest(out).target == fastest.target
    assert f"keep {fastest.target}: " in output.err
    assert "s, round 1: tokens a second: cpu-fp32 " in output.err
    assert len(asked) == 1
    assert main(["inspect", str(out)]) == 0
    assert "tokens/s" in capsys.readouterr().out


def test_an_engine_cannot_be_named_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--target", "cpu-auto", "--engine", "onnxruntime-cpu"]
    assert main(["export", "anything", "--out", str(tmp_path / "out"), *args]) == 1
    assert "leave one of them out" in capsys.readouterr().err


@pytest.mark.parametrize("name", CANDIDATES)
def test_candidates_are_targets_of_the_cpu(name: str) -> None:
    target = load_target_profile(name)
    assert target.engine.startswith(("onnxruntime-cpu", "openvino-"))
    assert not target.shapes  # which would bound rows, and the checkpoint is asked once for all
