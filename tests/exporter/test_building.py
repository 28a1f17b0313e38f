"""`rerank-export build`, with a stand-in for TensorRT and ONNX Runtime to run what it "built"."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import runtime.selection
from exporter import building
from exporter.answers import Reference
from exporter.building import build
from exporter.cli import main
from exporter.errors import OutputRefused, ParityFailed, PlanFailed, ReportRefused
from exporter.pipeline import verify
from exporter.reference_file import read_reference, write_reference
from exporter.tensorrt_plan import Machine
from runtime.errors import EngineUnavailable
from runtime.gpu import Gpu
from runtime.manifest import read_manifest
from runtime.opening import open_ranker


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_target_of_tensorrt_bounds_rows_by_its_shapes(planless: Path) -> None:
    manifest = read_manifest(planless)
    assert (manifest.max_tokens, manifest.precision) == (512, "fp16")
    assert (manifest.plan, manifest.hardware) == (None, None)
    assert json.loads((planless / "parity.json").read_bytes())["engine"] == "onnxruntime-cpu"


def test_a_plan_is_built_proven_and_served_in_place(
    planless: Path, tmp_path: Path, machine: Machine
) -> None:
    directory = shutil.copytree(planless, tmp_path / "artifact")
    before = read_manifest(directory)
    manifest = build(directory, "tensorrt-fp16", directory)
    assert manifest == read_manifest(directory)
    assert manifest.version != before.version
    assert manifest.hardware == machine.facts()
    assert manifest.plan is not None
    assert (manifest.plan.target, manifest.plan.precision) == ("tensorrt-fp16", "fp16")
    assert [s.sequence for s in manifest.plan.shapes] == [(3, 256, 512)]
    assert manifest.plan.golden_tolerance >= manifest.golden_tolerance
    assert "model.plan" in manifest.files
    parity = json.loads((directory / "parity.json").read_bytes())
    assert (parity["engine"], parity["plan"]["engine"]) == ("onnxruntime-cpu", "tensorrt")
    assert parity["plan"]["hardware"]["gpu"] == "NVIDIA H100"
    assert list(parity["plan"]["rungs"]) == ["tokens", "logits", "ranking"]
    ranker = open_ranker(directory)
    try:
        assert ranker.info.engine == "tensorrt"
    finally:
        ranker.close()
    assert verify(directory, None, None).version == manifest.version


def test_it_can_go_elsewhere_and_be_built_again(
    planless: Path, tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(planless)
    out = tmp_path / "cache" / "artifact"
    command = ["build", str(planless), "--out", str(out)]  # for the target that it was made for
    assert main([*command, "--timing-cache", str(tmp_path / "timing")]) == 0
    assert files(planless) == before
    output = capsys.readouterr()
    assert "with a plan, proven against transformers " in output.out
    assert ", on tensorrt: " in output.out
    assert "Building: step 1 of 2" in output.err
    assert (tmp_path / "timing").exists()
    assert read_manifest(out).plan.version_compatible is False  # type: ignore[union-attr]
    assert read_manifest(out).plan.target == "tensorrt-fp16"  # type: ignore[union-attr]
    again = ["build", str(out), "--target", "tensorrt-fp16-4096", "--version-compatible"]
    assert main(again) == 0
    manifest = read_manifest(out)
    assert manifest.plan is not None
    assert manifest.plan.version_compatible
    assert len(manifest.plan.shapes) == 2
    assert main(["build", str(out)]) == 0  # as it was, not with the short rows of the export
    assert read_manifest(out).plan.target == "tensorrt-fp16-4096"  # type: ignore[union-attr]
    assert main(["inspect", str(out)]) == 0
    assert "proven on        tensorrt" in capsys.readouterr().out


@pytest.mark.usefixtures("machine")
def test_a_plan_that_lost_quality_is_not_kept(
    planless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = shutil.copytree(planless, tmp_path / "artifact")
    before = files(directory)
    answers = read_reference(directory)
    assert isinstance(answers, Reference)
    wrong = Reference(
        answers.witness, answers.groups, answers.tokens, [-3 * found for found in answers.outputs]
    )
    monkeypatch.setattr(building, "read_reference", lambda _: wrong)
    with pytest.raises(ParityFailed, match="tensorrt scoring it") as failed:
        build(directory, "tensorrt-fp16", directory)
    assert files(directory) == before
    assert failed.value.report is not None
    assert not json.loads(failed.value.report.read_bytes())["plan"]["rungs"]["logits"]["passed"]


@pytest.mark.parametrize("way", ["parse", "build"])
def test_what_tensorrt_refuses_leaves_the_artifact_as_it_was(
    planless: Path, tmp_path: Path, machine: Machine, way: str
) -> None:
    directory = shutil.copytree(planless, tmp_path / "artifact")
    before = files(directory)
    machine.trt.fails = way
    with pytest.raises(PlanFailed):
        build(directory, "tensorrt-fp16", directory)
    assert files(directory) == before


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("cuda-fp16", "has no plan, wanted .* tensorrt-fp16 or tensorrt-fp16-4096; export"),
        ("tensorrt-fp8", r"wanted fp8 .* --target tensorrt-fp8 first"),
        ("tensorrt-bf16", "wanted bf16"),
    ],
)
def test_another_kind_of_graph_is_refused(planless: Path, target: str, message: str) -> None:
    with pytest.raises(PlanFailed, match=message):
        build(planless, target, planless)


@pytest.mark.usefixtures("machine")
def test_operators_that_tensorrt_does_not_know_are_refused(half_artifact: Path) -> None:
    with pytest.raises(PlanFailed, match="onnxruntime-cuda operators"):
        build(half_artifact, "tensorrt-fp16", half_artifact)
    with pytest.raises(PlanFailed, match="found target cuda-fp16, which runs on onnxruntime-cuda"):
        build(half_artifact, None, half_artifact)


@pytest.mark.usefixtures("machine")
def test_a_directory_that_no_export_wrote_is_not_replaced(planless: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(OutputRefused):
        build(planless, "tensorrt-fp16", tmp_path)


def test_a_plan_for_another_machine_is_refused_with_the_command(
    planless: Path, tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "artifact"
    build(planless, "tensorrt-fp16", out)
    ampere = Gpu("NVIDIA A100", "8.0", "x86_64", "580.65.06")
    monkeypatch.setattr(runtime.selection, "find_gpu", lambda: ampere)
    wanted = r"built for compute capability 9\.0 \(NVIDIA H100\), found 8\.0 .*rerank-export build"
    with pytest.raises(EngineUnavailable, match=wanted):
        open_ranker(out)


@pytest.mark.parametrize("artifact", ["rank_artifact", "embed_artifact", "pair_artifact"])
def test_answers_are_read_as_they_were_written(
    artifact: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    answers: Any = read_reference(request.getfixturevalue(artifact))
    write_reference(tmp_path, answers)
    again: Any = read_reference(tmp_path)
    for field in ("groups", "tokens", "texts"):
        assert getattr(again, field) == getattr(answers, field)
    for found, wanted in zip(again.outputs, answers.outputs, strict=True):
        np.testing.assert_array_equal(found, wanted)
    short = answers.within(40)
    assert 0 < len(short.groups) < len(answers.groups)
    assert all(len(row.token_ids) <= 40 for rows in short.tokens for row in rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{}", "cannot be used"),
        (
            '{"kind":"rank","schema":9,"witness":"","groups":[],"tokens":[],"logits":[]}',
            "schema 9, wanted 1",
        ),
    ],
)
def test_answers_that_cannot_be_read_are_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "reference.json").write_text(content)
    with pytest.raises(ReportRefused, match=message):
        read_reference(tmp_path)


def test_building_needs_neither_pytorch_nor_onnx() -> None:
    """A serving image builds its plan on the first start."""
    code = (
        "import sys, exporter.building, exporter.cli, exporter.image_parity;"
        "print([m for m in ('torch', 'transformers', 'onnx', 'onnxscript') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "[]"


def test_the_manifest_is_read_back(planless: Path, tmp_path: Path, machine: Machine) -> None:
    manifest = build(planless, "tensorrt-fp16", tmp_path / "artifact")
    content = (tmp_path / "artifact" / "manifest.json").read_bytes()
    assert msgspec.json.decode(content)["hardware"] == msgspec.to_builtins(manifest.hardware)
