"""Every writing command of the recipe: run twice at once, and pointed at its own input.

The tests of the stages and of score cover killed commands.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe.cli import main
from recipe.durable import JournalWriter
from recipe.table import COMMANDS, STAGES
from runtime.outputs import locked_directory
from tests.recipe.conftest import write_corpus
from tests.recipe.killing import interrupt_after
from tests.trees import tree

pytestmark = pytest.mark.usefixtures("undrawn")

OUT = Path("output/rerank")
ARTIFACT = OUT / "stage4_export" / "onnx"
CHECKPOINT = OUT / "stage2_finetune/checkpoints/LATEST/model/consolidated"
SDG = ["sdg", "corpus_dir=texts", "generator=extractive"]
COMPARE = ["compare", str(CHECKPOINT), str(ARTIFACT)]

# Its command line, and the folder that it locks while it works.
DOUBLED: dict[str, tuple[list[str], str]] = {
    "sdg": (SDG, "stage0_sdg"),
    "prep": (["prep"], "stage1_prep"),
    "finetune": (["finetune"], "stage2_finetune"),
    "eval": (["eval"], "stage3_eval"),
    "export": (["export"], "stage4_export"),
    "export that adds a column": (["export"], "stage3_eval"),
    "deploy": (["deploy"], "stage5_deploy"),
    "compare": (COMPARE, "stage3_eval"),
}


@pytest.fixture
def whole(copied: Path) -> Path:
    """The finished folder, with a corpus and what sdg made of it."""
    write_corpus(copied / "texts")
    assert main([*SDG, "-c", "c.toml"]) == 0
    return copied


def test_every_command_that_writes_is_here() -> None:
    # test_score.py; data inspect writes nothing, and report one file at once.
    elsewhere = {"score", "data", "report"}
    known = {stage.name for stage in STAGES} | set(COMMANDS)
    assert {line[0] for line, _ in DOUBLED.values()} == known - elsewhere


# compare has none, and an export that is forced exports before it adds its column.
FORCED = {name: ([*line, "--force"], folder) for name, (line, folder) in DOUBLED.items()}
del FORCED["compare"], FORCED["export that adds a column"]


@pytest.mark.parametrize(
    ("line", "folder"),
    [*DOUBLED.values(), *FORCED.values()],
    ids=[*DOUBLED, *(f"{name}, forced" for name in FORCED)],
)
def test_a_second_run_is_refused_and_changes_nothing(
    whole: Path, capsys: pytest.CaptureFixture[str], line: list[str], folder: str
) -> None:
    place = whole / OUT / folder
    place.mkdir(exist_ok=True)
    before = tree(place), tree(whole / ARTIFACT)
    with locked_directory(place):
        assert main([*line, "-c", "c.toml"]) == 1
    assert f"works in {OUT / folder}" in capsys.readouterr().err
    assert (tree(place), tree(whole / ARTIFACT)) == before


def records_in_prep(folder: Path) -> None:
    place = folder / OUT / "stage1_prep"
    place.mkdir()
    (records,) = (folder / OUT / "stage0_sdg").glob("*[!n].jsonl")
    shutil.copyfile(records, place / "train.json")


def base_in_checkpoints(folder: Path) -> None:
    shutil.copytree(folder / CHECKPOINT, folder / "models" / "mine")


def settings_in_a_log(folder: Path) -> None:
    shutil.copyfile(folder / "c.toml", folder / "server.log")


def nothing(_: Path) -> None:
    """The inputs exist."""


# Its command line, what is read, and what has to be there first.
ONES_OWN: dict[str, tuple[list[str], Path, Callable[[Path], None]]] = {
    "sdg into its corpus": ([*SDG, "output_dir=texts"], Path("texts"), nothing),
    "sdg below its corpus": ([*SDG, "output_dir=texts/../texts/made"], Path("texts"), nothing),
    "prep over its records": (
        ["prep", f"sdg_input_path={OUT}/stage1_prep/train.json", "hard_negatives_to_mine=1"],
        OUT / "stage1_prep/train.json",
        records_in_prep,
    ),
    "finetune over its base": (
        ["finetune", "base_model=models/mine", "checkpoint_dir=models/mine"],
        Path("models"),
        base_in_checkpoints,
    ),
    "finetune over the folder of its base": (
        ["finetune", "base_model=models/mine", "checkpoint_dir=models"],
        Path("models"),
        base_in_checkpoints,
    ),
    "eval into its data": (["eval", "output_dir=prep/eval_beir"], Path("prep"), nothing),
    "export over its checkpoint": (
        ["export", f"onnx_export_path={CHECKPOINT}"],
        CHECKPOINT,
        nothing,
    ),
    "deploy into its artifact": (["deploy", f"output_dir={ARTIFACT}"], ARTIFACT, nothing),
    "deploy over its settings": (
        ["deploy", "output_dir=.", "-c", "server.log"],
        Path("server.log"),
        settings_in_a_log,
    ),
}


@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
@pytest.mark.parametrize(("line", "read", "prepare"), ONES_OWN.values(), ids=ONES_OWN)
def test_what_is_read_is_never_written(
    whole: Path,
    capsys: pytest.CaptureFixture[str],
    line: list[str],
    read: Path,
    prepare: Callable[[Path], None],
    force: list[str],
) -> None:
    prepare(whole)
    before = content(read)
    config = [] if "-c" in line else ["-c", "c.toml"]
    assert main([*line, *config, *force]) == 1
    assert "name another output" in capsys.readouterr().err
    assert content(read) == before


def content(read: Path) -> object:
    return tree(read) if read.is_dir() else read.read_bytes()


def test_force_gives_another_name_to_what_the_stage_did_not_make(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thesis = copied / "thesis" / "chapter-1.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    settings = ["-c", "c.toml", f"onnx_export_path={thesis.parent}", "eval_dir=null"]
    assert main(["export", *settings]) == 1
    assert thesis.exists()
    assert main(["export", *settings, "--force"]) == 0
    output = capsys.readouterr().err
    assert "thesis was not made by this stage; renamed it to thesis.before-1" in output
    assert (copied / "thesis.before-1" / "chapter-1.txt").read_text() == "years of work"
    assert (copied / "thesis" / "manifest.json").exists()


@pytest.mark.parametrize("name", ["server.log", "endpoint.json", "server.pid"])
def test_what_has_the_name_of_a_deployment_s_file_is_kept(
    copied: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (copied / "mine").mkdir()
    (copied / "mine" / name).write_text("years of work")
    assert main(["deploy", "-c", "c.toml", "output_dir=mine", "eval_dir=null"]) == 1
    assert f"mine/{name} exists" in capsys.readouterr().err
    assert (copied / "mine" / name).read_text() == "years of work"


def test_a_folder_is_of_one_stage(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(copied / OUT)
    for force in ([], ["--force"]):
        line = ["deploy", "-c", "c.toml", f"output_dir={OUT}/stage3_eval", "eval_dir=null"]
        assert main([*line, *force]) == 1
        assert "holds output of the stage eval" in capsys.readouterr().err
    assert tree(copied / OUT) == before


def test_a_folder_that_is_no_comparison_is_kept(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = copied / OUT / "stage3_eval" / "compare" / "drift.md"
    mine.parent.mkdir()
    mine.write_text("years of work")
    assert main([*COMPARE, "-c", "c.toml"]) == 1
    assert "move it away" in capsys.readouterr().err
    assert mine.read_text() == "years of work"


def test_a_comparison_that_is_stopped_goes_on(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, JournalWriter, "write", 3)
        assert main([*COMPARE, "-c", "c.toml"]) == 130
    capsys.readouterr()
    assert main([*COMPARE, "-c", "c.toml"]) == 0
    output = capsys.readouterr()
    assert "A, queries: 2 of 6 were already done" in output.err
    assert "| A → B | +0.0000 |" in output.out


def test_damaged_scores_are_named_and_left_alone(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = copied / OUT / "stage3_eval" / "scores" / "onnx.jsonl"
    damaged = file.read_bytes().replace(b'"logits":[', b'"logits":[\0', 1)
    file.write_bytes(damaged)
    assert main(["export", "-c", "c.toml"]) == 1
    assert "line 2 of" in (output := capsys.readouterr().err)
    assert "move the file away" in output
    assert file.read_bytes() == damaged
