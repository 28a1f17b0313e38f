"""Artifacts of models that take images: what lies in them, and what makes them invalid."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from exporter.draft import ExportArgs
from exporter.errors import (
    ManifestMismatch,
    ParityFailed,
    ReportRefused,
    RepositoryRefused,
)
from exporter.pipeline import export, quantize_artifact, verify
from exporter.reference import ask_artifact
from exporter.reference_file import read_reference, write_reference
from exporter.report import read_report, require_passed
from exporter.seal import seal
from exporter.triton.repository import write_repository
from runtime.errors import ArtifactError, FileChanged, GoldenMismatch, ManifestError
from runtime.manifest import read_manifest, write_manifest
from runtime.opening import open_model
from tests.exporter.targets import HALF
from tests.tiny_vision import write_vision

RUNGS = [
    *("tokens", "image tokens", "pixels", "logits", "ranking"),
    *("image embeddings", "image logits", "image ranking"),
]


@pytest.fixture
def copy(vision_artifact: Path, tmp_path: Path) -> Path:
    return shutil.copytree(vision_artifact, tmp_path / "copy")


@pytest.mark.parametrize("name", ["vision_artifact", "vision_embed_artifact"])
def test_every_rung_is_climbed_within_the_tolerance(
    name: str, request: pytest.FixtureRequest
) -> None:
    report = read_report(request.getfixturevalue(name))
    assert list(report.rungs) == RUNGS
    assert all(rung.passed for rung in report.rungs.values())
    for rung in ("logits", "image embeddings", "image logits"):
        assert report.rungs[rung].max_abs_delta <= 2e-5
    for rung in ("ranking", "image ranking"):
        assert report.rungs[rung].kendall_tau == 1.0
    assert report.rungs["image tokens"].pairs == 12
    assert "SiglipVisionModel" in report.witness


def test_an_artifact_holds_both_graphs_and_goldens_with_images(vision_artifact: Path) -> None:
    manifest = read_manifest(vision_artifact)
    assert {"model.onnx", "vision.onnx"} <= manifest.files.keys()
    texts = [golden.text for golden in manifest.image_goldens]
    assert texts == ["", "Table of fees, both columns."]
    assert all(golden.query and len(golden.outputs) == 1 for golden in manifest.image_goldens)
    for file in ("model.onnx", "vision.onnx"):
        graph = onnx.load(vision_artifact / file).graph
        assert {node.domain for node in graph.node} == {""}
        assert not {"NonZero", "ScatterND", "Loop", "If"} & {node.op_type for node in graph.node}


def test_it_can_be_verified_again(vision_artifact: Path, vision_checkpoint: Path) -> None:
    verify(vision_artifact, str(vision_checkpoint), None)


@pytest.mark.heavy
def test_another_checkpoint_is_noticed(vision_artifact: Path, tmp_path: Path) -> None:
    other = write_vision(tmp_path, seed=1)
    with pytest.raises(ParityFailed, match="logits"):
        verify(vision_artifact, str(other), None)


@pytest.mark.parametrize("fact", ["thumbnail", "grids", "context"])
def test_a_changed_rule_is_noticed(fact: str, copy: Path, vision_checkpoint: Path) -> None:
    manifest = read_manifest(copy)
    vision = manifest.vision
    assert vision is not None
    changes: dict[str, Any] = {"thumbnail": False, "grids": [(1, 1)]}
    if fact == "context":
        vision = msgspec.structs.replace(vision, context=267)
    else:
        rule = msgspec.structs.replace(vision.rule, **{fact: changes[fact]})
        vision = msgspec.structs.replace(vision, rule=rule)
    write_manifest(copy, msgspec.structs.replace(manifest, vision=vision))
    with pytest.raises(ManifestMismatch, match="version"):
        verify(copy, str(vision_checkpoint), None)
    model = open_model(copy)
    try:
        with pytest.raises(GoldenMismatch, match="golden"):
            model.warm_up()
    finally:
        model.close()


def test_a_changed_or_missing_vision_graph_is_refused(copy: Path) -> None:
    file = copy / "vision.onnx"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(FileChanged, match=r"vision\.onnx"):
        open_model(copy)
    file.unlink()
    with pytest.raises(ArtifactError, match=r"vision\.onnx"):
        open_model(copy)


def test_a_vision_graph_that_nobody_recorded_is_refused(copy: Path) -> None:
    manifest = read_manifest(copy)
    files = {name: digest for name, digest in manifest.files.items() if name != "vision.onnx"}
    write_manifest(copy, msgspec.structs.replace(manifest, files=files))
    with pytest.raises(ManifestError, match=r"no hash of vision\.onnx"):
        open_model(copy)


@pytest.mark.parametrize("broken", ["image logits", "pixels"])
def test_a_report_whose_image_rung_failed_is_no_proof(broken: str, copy: Path) -> None:
    report = read_report(copy)
    report.rungs[broken] = msgspec.structs.replace(report.rungs[broken], passed=False)
    with pytest.raises(ParityFailed, match=broken):
        require_passed(report)


def test_triton_computes_no_images(vision_artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(RepositoryRefused, match="takes images"):
        write_repository(vision_artifact, tmp_path / "out", "python")


def test_without_a_checkpoint_the_answers_that_are_kept_prove(
    vision_embed_artifact: Path, tmp_path: Path
) -> None:
    made = quantize_artifact(vision_embed_artifact, tmp_path / "out", "cpu-int8-weights")
    report = read_report(tmp_path / "out")
    assert list(report.rungs) == RUNGS
    assert report.rungs["image embeddings"].max_abs_delta <= 2e-5
    assert report.rungs["image logits"].max_abs_delta > 1e-4
    assert report.witness.startswith("the fp32 artifact ")
    assert len(made.image_goldens) == 2


def test_an_artifact_reads_texts_as_its_witness_does(vision_artifact: Path) -> None:
    """Those without the first <image>, too."""
    manifest = read_manifest(vision_artifact)
    answers = ask_artifact(vision_artifact, manifest, "onnxruntime-cpu", manifest)
    kept = read_reference(vision_artifact)
    assert answers.tokens == kept.tokens
    for found, wanted in zip(answers.outputs, kept.outputs, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=0)


def test_an_artifact_that_keeps_no_answers_about_images_proves_nothing(
    copy: Path, tmp_path: Path
) -> None:
    write_reference(copy, replace(read_reference(copy), images=None))
    manifest = read_manifest(copy)
    (copy / "manifest.json").unlink()
    seal(copy, manifest)
    with pytest.raises(ReportRefused, match=r"no answers about images in reference\.json; name"):
        quantize_artifact(copy, tmp_path / "out", "cpu-int8-weights")


@pytest.mark.heavy
def test_int8_keeps_the_tower_and_calibrates_on_pages(
    vision_artifact: Path, vision_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "int8"
    quantize_artifact(vision_artifact, out, "cpu-int8", checkpoint=str(vision_checkpoint))
    rungs = json.loads((out / "parity.json").read_bytes())["rungs"]
    assert rungs["image embeddings"]["max_abs_delta"] <= 2e-5
    assert 0 < rungs["image logits"]["max_abs_delta"] < 1
    assert (out / "vision.onnx").read_bytes() == (vision_artifact / "vision.onnx").read_bytes()


@pytest.mark.heavy
@pytest.mark.parametrize(
    "args",
    [HALF, ExportArgs(target="cpu-bf16"), ExportArgs(target="cpu-fp32-openvino")],
    ids=lambda args: args.target,
)
def test_other_precisions_and_engines_climb_every_rung_too(
    args: ExportArgs, vision_checkpoint: Path, tmp_path: Path
) -> None:
    export(str(vision_checkpoint), tmp_path / "out", args)
    report = read_report(tmp_path / "out")
    assert list(report.rungs) == RUNGS
    assert all(rung.passed for rung in report.rungs.values())
    assert report.rungs["image embeddings"].max_abs_delta > 0
