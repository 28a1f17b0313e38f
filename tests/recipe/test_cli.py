"""The command line: info, what -d shows, the order of stages, and what stops a run."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from recipe import cli
from tests.recipe.killing import environment

Rerank = Callable[..., subprocess.CompletedProcess[str]]


def test_info_lists_the_stages_in_order_without_loading_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "recipe.cli", "info"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    titles = [line.split(":")[0] for line in done.stdout.splitlines() if line[:1].isdigit()]
    assert titles == ["0 sdg", "1 prep", "2 finetune", "3 eval", "4 export", "5 deploy"]
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "recipe.stage" in loaded
    assert "torch" not in loaded


def test_a_dry_run_prints_settings_that_yaml_reads_and_does_nothing(
    rerank: Rerank, tmp_path: Path
) -> None:
    done = rerank("run", "-c", "default", "-d", "--from", "prep", "prep.seed=7", "--to", "finetune")
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)
    assert list(shown) == ["prep", "finetune"]
    assert shown["prep"]["seed"] == 7
    assert "generation_result.json (MISSING: run sdg first)" in done.stdout
    assert "train_mined.automodel_unrolled.json (made by prep before)" in done.stdout
    assert "# prep is not begun in output/rerank/stage1_prep" in done.stdout
    assert not list(tmp_path.iterdir())


def test_run_ends_with_eval_unless_told(rerank: Rerank) -> None:
    shown = yaml.safe_load(rerank("run", "-d").stdout)
    assert list(shown) == ["sdg", "prep", "finetune", "eval"]


def test_the_wrong_order_is_refused(rerank: Rerank) -> None:
    done = rerank("run", "--from", "eval", "--to", "prep")
    assert done.returncode == 2
    assert "wanted the order sdg, prep" in done.stderr


def test_a_missing_input_names_the_stage_that_makes_it(rerank: Rerank, tmp_path: Path) -> None:
    for stage, maker in (("prep", "sdg"), ("finetune", "prep"), ("eval", "prep")):
        done = rerank(stage)
        assert done.returncode == 1
        assert f"run `rerank {maker}`" in done.stderr, done.stderr


def test_what_a_later_stage_lacks_is_said_before_the_first_works(
    rerank: Rerank, corpus: Path, tmp_path: Path
) -> None:
    done = rerank(
        "run", f"corpus_dir={corpus}", "generator=extractive", "prep.base_model=./nowhere"
    )
    assert done.returncode == 1
    assert f"found no embedder at nowhere in {tmp_path}; create it" in done.stderr
    assert not (tmp_path / "output").exists()


def test_info_takes_settings(rerank: Rerank) -> None:
    done = rerank("info", "prep.output_dir=elsewhere", "-c", "small")
    assert done.returncode == 0, done.stderr
    assert "writes elsewhere/train.json" in done.stdout


def test_help_says_what_a_command_is_for_and_where_settings_stand(rerank: Rerank) -> None:
    for command in ("run", "prep", "compare"):
        shown = " ".join(rerank(command, "--help").stdout.split())
        assert "-c NAME|PATH" in shown
        assert "Settings may be anywhere on the line, as KEY=VALUE" in shown
    assert "Training groups with hard negatives" in rerank("prep", "--help").stdout


def test_wrong_usage_is_2(rerank: Rerank) -> None:
    assert rerank("sdg", "--no-such-flag").returncode == 2
    assert rerank("run", "--to", "nowhere").returncode == 2
    for workers in ("0", "-1", "two"):
        done = rerank("score", "in.jsonl", "out.jsonl", "--rank", ".", "--workers", workers)
        assert done.returncode == 2
        assert "wanted a whole number from 1" in done.stderr or "expected one" in done.stderr


@pytest.mark.parametrize(("package", "extra"), [("ray", "ray"), ("torch", "recipe")])
def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str, extra: str
) -> None:
    def fail(_: object) -> int:
        raise ModuleNotFoundError(name=package)

    monkeypatch.setattr(cli, "_run", fail)
    assert cli.main(["run"]) == 1
    message = f"the package {package} is not installed; install the extra `{extra}`"
    assert message in capsys.readouterr().err
