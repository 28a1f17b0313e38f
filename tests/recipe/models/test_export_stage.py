"""The stage export: which keys it takes, and that it exports what eval measured."""

import shutil
from pathlib import Path

import pytest

from recipe.cli import main
from recipe.evaluation.results import read_results
from tests.recipe.models.material import kill_when, run

EXPORT = Path("output/rerank/stage4_export")
EVAL = Path("output/rerank/stage3_eval")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("quant_cfg=fp8", "quant_cfg = fp8"),
        ("export_to_trt=true", "building a plan"),
        ("calibration_batch_size=8", "calibration_batch_size"),
        ("override_layernorm_precision_to_fp32=false", "norms are always computed in fp32"),
        ("override_layers_to_fp32=[/model/layers/]", "norms, pooling and score head"),
        ("attn_implementation=flash_attention_2", "wanted eager or sdpa"),
        ("opset=99", "wanted at most"),
        ("trt_min_seq_len=300", "wanted them rising"),
        ("trt_max_batch=32", "stand in its target profile"),
        ("prompt_template={query} {passage}", "was trained with"),
        ("model_path=./nowhere", "run `rerank finetune`"),
        ("eval_dir=./nowhere", "run `rerank eval`"),
    ],
)
def test_keys_are_honoured_or_refused_by_name(
    copied: Path, capsys: pytest.CaptureFixture[str], override: str, said: str
) -> None:
    assert main(["export", "-c", "c.toml", override]) == 1
    assert said in capsys.readouterr().err


def test_a_checkpoint_that_eval_did_not_measure_is_refused(
    copied: Path, tiny_llama_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "-c", "c.toml", f"model_path={tiny_llama_checkpoint}"]) == 1
    assert "run the stage eval on this checkpoint first" in capsys.readouterr().err


def test_another_artifact_is_not_replaced_without_force(
    copied: Path, rank_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copied / EXPORT)
    shutil.copytree(rank_artifact, copied / EXPORT / "onnx")
    assert main(["export", "-c", "c.toml"]) == 1
    assert "holds an artifact of another checkpoint" in capsys.readouterr().err


def test_a_killed_export_goes_on_to_the_same_column(copied: Path) -> None:
    wanted = read_results(copied / EVAL)["onnx"]
    shutil.rmtree(copied / EXPORT)
    (copied / EVAL / "scores" / "onnx.jsonl").unlink()
    made = copied / EXPORT / "onnx.json"
    kill_when(made.exists, "export", "-c", "c.toml", folder=copied)
    done = run("export", "-c", "c.toml", folder=copied)
    assert done.returncode == 0, done.stderr
    assert "was exported before" in done.stderr
    assert read_results(copied / EVAL)["onnx"] == wanted
