"""Plans of models that take images: both are built, proven on the stored answers, and opened.

TensorRT and CUDA are stand-ins; ONNX Runtime computes what they "built".
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest

import runtime.selection
from exporter import building
from exporter.answers import ImageAnswer, ImageAnswers, Reference
from exporter.building import build
from exporter.errors import ExportError, ParityFailed, PlanFailed, ReportRefused
from exporter.parity import new_report
from exporter.pipeline import ExportArgs, export, verify
from exporter.proof import make_proof
from exporter.reference_file import read_reference, write_reference
from exporter.report import read_report
from exporter.tensorrt_plan import Machine
from exporter.witness.nemotron_vl import VisionReranker
from runtime.engines.tensorrt import TensorRtEngine
from runtime.errors import EngineError, EngineUnavailable, FileChanged
from runtime.gpu import Gpu
from runtime.manifest import hash_file, read_manifest, write_manifest
from runtime.opening import open_model
from runtime.profile import load_target_profile
from runtime.ranker import Ranker
from runtime.requests import Passage, RankRequest
from runtime.selection import EngineOptions, open_best
from tests.conftest import Exported
from tests.exporter.conftest import equip
from tests.tiny_vision import TOKENS, png

RUNGS = [
    *("tokens", "image tokens", "pixels", "logits", "ranking"),
    *("image embeddings", "image logits", "image ranking"),
]
ONE, THREE, FIVE = png(90, 90), png(200, 100), png(150, 150)
PASSAGES = ["a text", Passage(image=ONE), Passage("a caption", THREE), Passage("", FIVE), "another"]


@pytest.fixture(scope="session")
def half_vision_artifact(vision_checkpoint: Path, exported: Exported) -> Path:
    """The reranker of images exported for tensorrt-fp16, without plans yet."""
    return exported(vision_checkpoint, ExportArgs(target="tensorrt-fp16"))


@pytest.fixture(scope="module")
def planned(half_vision_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with its plans."""
    out = tmp_path_factory.mktemp("planned") / "artifact"
    with pytest.MonkeyPatch.context() as monkeypatch:
        equip(monkeypatch)
        build(half_vision_artifact, "tensorrt-fp16", out, out.with_name("timing"))
    return out


@pytest.fixture
def copy(planned: Path, tmp_path: Path) -> Path:
    return shutil.copytree(planned, tmp_path / "copy")


@pytest.fixture
def ranker(planned: Path, machine: Machine) -> Iterator[Ranker]:
    with closing(cast(Ranker, open_model(planned))) as model:
        yield model


def test_both_plans_are_built_hashed_and_proven(planned: Path) -> None:
    manifest = read_manifest(planned)
    assert {"model.plan", "vision.plan", "model.onnx", "vision.onnx"} <= manifest.files.keys()
    assert manifest.plan is not None
    assert manifest.plan.tiles == (1, 7, 28)
    parity = json.loads((planned / "parity.json").read_bytes())
    assert parity["plan"]["engine"] == "tensorrt"
    assert list(parity["plan"]["rungs"]) == RUNGS
    assert all(rung["passed"] for rung in parity["plan"]["rungs"].values())
    # Each build adds to the one cache.
    assert planned.with_name("timing").read_bytes() == b"++"


def test_texts_images_and_both_are_ranked_by_the_plans(
    ranker: Ranker, vision_checkpoint: Path
) -> None:
    config = json.loads((vision_checkpoint / "config.json").read_bytes())
    witness = VisionReranker(vision_checkpoint, config)
    wanted = []
    for passage in PASSAGES:
        if isinstance(passage, str):
            wanted.append(witness.score("why?", passage)[1])
        else:
            sight = witness.see(cast(bytes, passage.image))
            wanted.append(witness.score_image("why?", passage.text, sight)[1])
    ranker.warm_up()
    assert (ranker.info.engine, ranker.info.device) == ("tensorrt", "cuda:0")
    found = ranker.rank(RankRequest("why?", PASSAGES)).logits
    np.testing.assert_allclose(found, np.concatenate(wanted), atol=0.02, rtol=0)
    texts = ranker.rank(RankRequest("why?", [PASSAGES[0], PASSAGES[4]])).logits
    np.testing.assert_allclose(texts, found[[0, 4]], atol=0.02, rtol=0)


def test_the_tower_s_calls_are_those_that_its_plan_takes(planned: Path, machine: Machine) -> None:
    engine = runtime.selection.open_tower(planned, "tensorrt", EngineOptions())
    with closing(engine):
        assert isinstance(engine, TensorRtEngine)
        assert [one.batch for one in engine.shapes] == [(1, 7, 28)]
        pixels = np.zeros((28, 3, 96, 96), np.float32)
        assert engine.run({"pixel_values": pixels})["image_embeds"].shape == (28, TOKENS, 64)
        with pytest.raises(EngineError, match="found a call of 29 rows"):
            engine.run({"pixel_values": np.zeros((29, 3, 96, 96), np.float32)})


@pytest.mark.usefixtures("machine")
def test_finished_plans_are_verified(planned: Path) -> None:
    assert verify(planned, None, None).plan is not None


def test_auto_takes_the_plans(planned: Path, machine: Machine) -> None:
    with closing(open_model(planned, engine="auto")) as model:
        assert model.info.engine == "tensorrt"


@pytest.mark.usefixtures("machine")
def test_a_missing_or_changed_vision_plan_is_refused(copy: Path) -> None:
    file = copy / "vision.plan"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(FileChanged, match=r"vision\.plan"):
        open_model(copy)
    manifest = read_manifest(copy)
    file.write_bytes(b"no plan")
    files = manifest.files | {"vision.plan": hash_file(file)}
    write_manifest(copy, msgspec.structs.replace(manifest, files=files))
    with pytest.raises(EngineError, match=r"cannot load vision\.plan: .*rerank-export build"):
        open_model(copy)
    file.unlink()
    with pytest.raises(FileChanged, match=r"vision\.plan"):
        open_model(copy)
    own_target = load_target_profile("tensorrt-fp16")
    told = r"needs vision\.plan, which is not in the artifact; build it: rerank-export build"
    with pytest.raises(EngineUnavailable, match=told):
        open_best(copy, "tensorrt", manifest, own_target, EngineOptions())


def test_plans_for_another_machine_are_refused(
    planned: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ampere = Gpu("NVIDIA A100", "8.0", "x86_64", "580.65.06")
    monkeypatch.setattr(runtime.selection, "find_gpu", lambda: ampere)
    with pytest.raises(EngineUnavailable, match=r"found 8\.0 .*rerank-export build"):
        open_model(planned)


@pytest.mark.usefixtures("machine")
def test_code_inside_both_plans_runs_only_when_allowed(planned: Path, tmp_path: Path) -> None:
    out = tmp_path / "compatible"
    build(planned, "tensorrt-fp16", out, version_compatible=True)
    with pytest.raises(EngineUnavailable, match="NIM_TRT_ENGINE_HOST_CODE_ALLOWED"):
        open_model(out)
    trt: Any = sys.modules["tensorrt"]
    trt.host_code_allowed.clear()
    open_model(out, host_code=True).close()
    assert trt.host_code_allowed == [True, True]


def other_embeddings(images: ImageAnswers) -> ImageAnswers:
    def turned(row: ImageAnswer) -> ImageAnswer:
        return row if row.embeds is None else replace(row, embeds=-row.embeds)

    return replace(images, groups=[list(map(turned, group)) for group in images.groups])


def other_outputs(images: ImageAnswers) -> ImageAnswers:
    groups = [
        [replace(row, outputs=other.outputs) for row, other in zip(group, group[::-1], strict=True)]
        for group in images.groups
    ]
    return replace(images, groups=groups)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("change", "rung"), [(other_embeddings, "image embeddings"), (other_outputs, "image logits")]
)
def test_plans_that_lost_images_are_not_kept(
    change: Callable[[ImageAnswers], ImageAnswers],
    rung: str,
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    answers = read_reference(copy)
    assert answers.images is not None
    wrong = replace(answers, images=change(answers.images))
    monkeypatch.setattr(building, "read_reference", lambda _: wrong)
    with pytest.raises(ParityFailed) as failed:
        build(copy, "tensorrt-fp16", copy)
    assert failed.value.rung == rung
    assert {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("engine", ["tensorrt", "onnxruntime-cuda"])
def test_logits_of_trained_weights_are_held_to_a_tolerance_in_a_plan(
    engine: str, ranker: Ranker, planned: Path
) -> None:
    """Elsewhere to their order alone."""
    answers = read_reference(planned)
    assert answers.images is not None
    groups = [[replace(row, outputs=row.outputs + 1) for row in g] for g in answers.images.groups]
    moved = replace(answers, images=replace(answers.images, groups=groups))
    report = new_report(engine, load_target_profile("tensorrt-fp16"), "", random_weights=False)
    outcome: AbstractContextManager[object] = nullcontext()
    if engine == "tensorrt":
        outcome = pytest.raises(ParityFailed, match=r"tolerance 0\.05")
    with outcome:
        make_proof(read_manifest(planned), moved).check_outputs(report, ranker)
    assert report.rungs["image logits"].passed == (engine != "tensorrt")


@pytest.mark.usefixtures("machine")
def test_answers_without_images_prove_no_vision_plan(
    half_vision_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As artifacts of older versions have them, and where no image fits into the plan's rows."""
    answers = read_reference(half_vision_artifact)
    monkeypatch.setattr(building, "read_reference", lambda _: replace(answers, images=None))
    with pytest.raises(PlanFailed, match=r"no answers about images in reference\.json"):
        build(half_vision_artifact, "tensorrt-fp16", tmp_path / "out")
    long = wide(answers)
    monkeypatch.setattr(building, "read_reference", lambda _: long)
    with pytest.raises(PlanFailed, match="at most 256 tokens hold no image of one tile"):
        build(half_vision_artifact, "tensorrt-fp16", tmp_path / "out")


@pytest.mark.usefixtures("machine")
def test_a_missing_pillow_is_named_before_anything_is_compiled(
    half_vision_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    for module in ("exporter.image_parity", "runtime.vision.decoding"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(EngineUnavailable, match=r"PIL is missing, .* the extra `vision`"):
        build(half_vision_artifact, "tensorrt-fp16", tmp_path / "out")


def wide(answers: Reference) -> Reference:
    """With more tokens in every row that has an image."""
    assert answers.images is not None

    def widened(row: Any) -> Any:
        ids = [*row.tokens.token_ids, *range(1000)]
        return (
            row if row.embeds is None else replace(row, tokens=replace(row.tokens, token_ids=ids))
        )

    groups = [list(map(widened, group)) for group in answers.images.groups]
    return replace(answers, images=replace(answers.images, groups=groups))


def test_rows_that_a_plan_does_not_take_prove_nothing(vision_embed_artifact: Path) -> None:
    images = read_reference(vision_embed_artifact).images
    assert images is not None
    assert [len(group) for group in images.groups] == [8, 4]
    shorter = images.within(60)
    assert shorter is not None
    assert [len(group) for group in shorter.groups] == [7, 2]
    assert len(shorter.queries) == 2
    lengths = [len(row.tokens.token_ids) for group in shorter.groups for row in group]
    assert max(lengths) <= 60
    assert images.within(10) is None


@pytest.mark.parametrize("name", ["tensorrt-fp8", "tensorrt-int8", "ort-tensorrt-fp16"])
@pytest.mark.usefixtures("machine")
def test_targets_without_tiles_are_refused(
    name: str, vision_checkpoint: Path, half_vision_artifact: Path, tmp_path: Path
) -> None:
    told = "wanted one of .*cuda-fp16, cuda-fp16-graphs, .*tensorrt-bf16, tensorrt-fp16, tensorrt-"
    args = ExportArgs(target=name, engine="onnxruntime-cpu")
    with pytest.raises(ExportError, match=told):
        export(str(vision_checkpoint), tmp_path / "out", args)
    told = "takes images" if name != "ort-tensorrt-fp16" else "has no plan"
    with pytest.raises(PlanFailed, match=told):
        build(half_vision_artifact, name, tmp_path / "out")


@pytest.mark.parametrize("name", ["vision_artifact", "vision_embed_artifact"])
def test_answers_about_images_are_read_as_they_were_written(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    answers = read_reference(request.getfixturevalue(name))
    write_reference(tmp_path, answers)
    again = read_reference(tmp_path)
    assert answers.images is not None
    assert again.images is not None
    for found, wanted in zip(again.images.groups, answers.images.groups, strict=True):
        for one, other in zip(found, wanted, strict=True):
            kept = [
                (row.label, row.query, row.passage, row.tokens, row.pixels) for row in (one, other)
            ]
            assert kept[0] == kept[1]
            np.testing.assert_array_equal(one.outputs, other.outputs)
            assert (one.embeds is None) == (other.embeds is None)
            if one.embeds is not None and other.embeds is not None:
                np.testing.assert_array_equal(one.embeds, other.embeds)
    np.testing.assert_array_equal(again.images.queries, answers.images.queries)
    images = json.loads((tmp_path / "reference.json").read_bytes())["images"]
    rows = [row["image"] for group in images["groups"] for row in group if row["image"]]
    assert len(rows) > len(images["images"]) == len(set(rows)) == 4


@pytest.mark.parametrize("change", ["shape", "image"])
def test_damaged_answers_about_images_are_refused(
    change: str, vision_artifact: Path, tmp_path: Path
) -> None:
    content = json.loads((vision_artifact / "reference.json").read_bytes())
    images = content["images"]["images"]
    if change == "shape":
        next(iter(images.values()))["shape"][0] += 1
    else:
        images.popitem()
    (tmp_path / "reference.json").write_text(json.dumps(content))
    with pytest.raises(ReportRefused, match=r"cannot be used \(images: .*export again"):
        read_reference(tmp_path)


@pytest.mark.parametrize("name", ["vision_artifact", "vision_embed_artifact"])
def test_the_answers_that_are_kept_prove_an_artifact_without_its_witness(
    name: str, request: pytest.FixtureRequest
) -> None:
    directory = request.getfixturevalue(name)
    manifest = read_manifest(directory)
    report = new_report("onnxruntime-cpu", load_target_profile("cpu-fp32"), "", random_weights=True)
    proof = make_proof(manifest, read_reference(directory))
    proof.check_tokens(report, directory)
    proof.check_engine(report, directory)
    assert list(report.rungs) == RUNGS
    exported_rungs = read_report(directory).rungs
    assert report.rungs["image embeddings"] == exported_rungs["image embeddings"]
