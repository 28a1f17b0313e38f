"""The stage export: the accepted keys, and that it exports what eval measured."""

import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from exporter import building, pipeline, target_graph, tensorrt_plan
from exporter.checkpoint import read_checkpoint
from recipe.cli import main
from recipe.evaluation.results import read_results
from runtime.manifest import Manifest, read_manifest
from tests.recipe.killing import interrupt_after

pytestmark = pytest.mark.usefixtures("undrawn")

EXPORT = Path("output/rerank/stage4_export")
EVAL = Path("output/rerank/stage3_eval")
CONSOLIDATED = Path("output/rerank/stage2_finetune/checkpoints/LATEST/model/consolidated")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("quant_cfg=fp8", "quant_cfg = fp8"),
        ("export_to_trt=true", "building a plan"),
        ("calibration_batch_size=8", "calibration_batch_size"),
        ("override_layernorm_precision_to_fp32=false", "norms are always computed in fp32"),
        ("override_layers_to_fp32=[/model/layers/]", "norms, pooling and score head"),
        ("attn_implementation=flash_attention_2", "wanted eager or sdpa"),
        ("opset=99", "wanted at most"),
        ("trt_min_seq_len=300", "wanted 3: the shapes of a plan"),
        ("trt_max_batch=32", "are in its target profile"),
        ("prompt_template={query} {passage}", "was trained with"),
        ("model_path=./nowhere", "run `rerank finetune`"),
        ("eval_dir=./nowhere", "run `rerank eval`"),
    ],
)
def test_keys_are_honoured_or_refused_by_name(
    copied: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert main(["export", "-c", "c.toml", override]) == 1
    assert message in capsys.readouterr().err


def test_a_checkpoint_that_eval_did_not_measure_is_refused(
    copied: Path, tiny_llama_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "-c", "c.toml", f"model_path={tiny_llama_checkpoint}"]) == 1
    assert "run the stage eval on this checkpoint first" in capsys.readouterr().err


def test_every_file_of_the_checkpoint_is_known_to_the_exporter(copied: Path) -> None:
    read_checkpoint(str(copied / CONSOLIDATED), strict=True)


def test_another_artifact_is_not_replaced_without_force(
    copied: Path, rank_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copied / EXPORT)
    shutil.copytree(rank_artifact, copied / EXPORT / "onnx")
    assert main(["export", "-c", "c.toml"]) == 1
    assert "holds an artifact of another checkpoint" in capsys.readouterr().err


def test_what_made_the_artifact_stays_recorded(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = copied / EXPORT / "done.json"
    before = json.loads(done.read_text())
    monkeypatch.setattr(metadata, "version", lambda _: "later")
    assert main(["export", "-c", "c.toml"]) == 0
    assert json.loads(done.read_text())["versions"] == before["versions"]
    assert main(["export", "-c", "c.toml", "model_profile=tiny-rerank-v1"]) == 1
    assert "another checkpoint, profile or target" in capsys.readouterr().err
    assert json.loads(done.read_text())["settings"]["model_profile"] is None


def test_an_export_that_is_stopped_goes_on_to_the_same_column(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = read_results(copied / EVAL)["onnx"]
    shutil.rmtree(copied / EXPORT)
    (copied / EVAL / "scores" / "onnx.jsonl").unlink()
    out = copied / EXPORT / "onnx"
    # In the middle of the export, and once the artifact is in place.
    for holder, name, stands in ((target_graph, "load_model", False), (pipeline, "export", True)):
        with monkeypatch.context() as patch:
            interrupt_after(patch, holder, name)
            assert main(["export", "-c", "c.toml"]) == 130
        assert (out / "manifest.json").exists() == stands
        assert (copied / EXPORT / "onnx.json").exists()
    capsys.readouterr()
    assert main(["export", "-c", "c.toml"]) == 0
    assert "was already exported" in capsys.readouterr().err
    assert read_results(copied / EVAL)["onnx"] == wanted


def test_a_plan_is_built_from_the_graph_that_a_stopped_run_left(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No GPU here: exporter and builder are replaced, the code that continues is real."""
    exported, built = [], []

    def export(source: str, out: Path, args: pipeline.ExportArgs) -> Manifest:
        exported.append(args.target)
        shutil.copytree(copied / EXPORT / "onnx", out)
        return read_manifest(out)

    def build(directory: Path, target: str, out: Path) -> Manifest:
        built.append(target)
        if len(built) == 1:
            raise KeyboardInterrupt
        return read_manifest(out)

    monkeypatch.setattr(pipeline, "export", export)
    monkeypatch.setattr(building, "build", build)
    monkeypatch.setattr(tensorrt_plan, "this_machine", lambda _: None)
    arguments = ["export", "-c", "c.toml", "export_to_trt=true", "eval_dir=null"]
    assert main(arguments) == 130
    assert (copied / EXPORT / "tensorrt" / "manifest.json").is_file()
    assert main(arguments) == 0
    assert "build its plan" in capsys.readouterr().err
    assert (exported, built) == (["tensorrt-fp16"], ["tensorrt-fp16"] * 2)


def test_beside_a_plan_there_is_the_graph_that_deploy_takes_by_default(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NVIDIA's export_to_trt; no GPU here: exporter and builder are replaced."""
    kept = copied / "kept"
    shutil.copytree(copied / EXPORT / "onnx", kept)
    made: list[tuple[str, Path]] = []

    def export(source: str, out: Path, args: pipeline.ExportArgs) -> Manifest:
        made.append((args.target, out))
        shutil.copytree(kept, out)
        return read_manifest(out)

    monkeypatch.setattr(pipeline, "export", export)
    monkeypatch.setattr(building, "build", lambda *given: read_manifest(given[-1]))
    monkeypatch.setattr(tensorrt_plan, "this_machine", lambda _: None)
    arguments = ["export", "-c", "c.toml", "export_to_trt=true", "eval_dir=null", "--force"]
    assert main([*arguments, "export_dtype=fp16"]) == 0
    onnx, plan = EXPORT / "onnx", EXPORT / "tensorrt"
    assert made == [("cuda-fp16", onnx), ("tensorrt-fp16", plan)]
    assert (copied / onnx / "manifest.json").is_file()


def test_a_column_that_eval_dropped_comes_back(copied: Path) -> None:
    wanted = read_results(copied / EVAL)["onnx"]
    for arguments in (["max_length=40"], ["max_length=48"], ["--force"]):
        assert main(["eval", "-c", "c.toml", *arguments]) == 0
        assert "onnx" not in read_results(copied / EVAL)
        if arguments != ["max_length=40"]:
            assert main(["export", "-c", "c.toml"]) == 0
            assert read_results(copied / EVAL)["onnx"] == wanted
            assert "finetuned → onnx" in (copied / EVAL / "drift.md").read_text("utf-8")
