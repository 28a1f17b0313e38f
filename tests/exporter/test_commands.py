"""Every command of the exporter that writes: doubled, pointed at its own input, killed anywhere.

How a directory is replaced, whoever is killed in between, is in tests/runtime/test_outputs.py.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.cli import main
from runtime.outputs import locked_directory, locked_work_folder
from runtime.tuning import TUNING_FILE
from tests.dying import die_everywhere
from tests.trees import tree

MODEL = "llama_3_2_nv_rerankqa_1b_v2"


@pytest.fixture
def folder(
    tmp_path: Path, tiny_llama_checkpoint: Path, rank_artifact: Path, planless: Path
) -> Path:
    """A checkpoint and artifacts of one's own."""
    for name, source in (
        ("checkpoint", tiny_llama_checkpoint),
        ("artifact", rank_artifact),
        ("planless", planless),
    ):
        shutil.copytree(source, tmp_path / name)
    (tmp_path / "link").symlink_to("artifact")
    (tmp_path / "repository" / MODEL / "1").mkdir(parents=True)
    shutil.copytree(rank_artifact, tmp_path / "repository" / MODEL / "1" / "artifact")
    return tmp_path


EXPORT = ["export", "checkpoint", "--profile", "tiny-rerank-v1"]
QUANTIZE = ["quantize", "artifact", "--target", "cpu-int8-weights"]
BUILD = ["build", "planless", "--target", "tensorrt-fp16"]
TRITON = ["triton", "artifact"]

# Its command line, and the output that somebody else writes.
DOUBLED: dict[str, tuple[list[str], str, str]] = {
    "export": ([*EXPORT, "--out", "out"], "out", "rerank-export"),
    "export for the fastest": (
        [*EXPORT, "--target", "cpu-auto", "--out", "out"],
        "out",
        "rerank-export",
    ),
    "export by another way": ([*EXPORT, "--out", "a/../link"], "artifact", "rerank-export"),
    "quantize": ([*QUANTIZE, "--out", "out"], "out", "rerank-export"),
    "build": (BUILD, "planless", "rerank-export"),
    "triton": ([*TRITON, "--out", "out"], f"out/{MODEL}", "rerank-triton"),
}


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("line", "out", "purpose"), DOUBLED.values(), ids=DOUBLED)
def test_a_second_run_is_refused_and_changes_nothing(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: list[str],
    out: str,
    purpose: str,
) -> None:
    monkeypatch.chdir(folder)
    with locked_work_folder(folder / out, purpose) as work:
        (work / "new").mkdir()
        before = tree(folder)
        assert main(line) == 1
        assert "another command writes" in capsys.readouterr().err
        assert tree(folder) == before
        (work / "new").rmdir()


@pytest.mark.parametrize("line", [["tune", "artifact"], [*EXPORT, "--out", "link"]])
def test_an_artifact_that_is_tuned_is_neither_tuned_nor_replaced(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: list[str],
) -> None:
    monkeypatch.chdir(folder)
    before = tree(folder)
    with locked_directory(folder / "artifact"):  # as the command tune holds it
        assert main(line) == 1
    assert "another command works in" in capsys.readouterr().err
    assert tree(folder) == before


ONES_OWN: dict[str, list[str]] = {
    "export": [*EXPORT, "--out", "checkpoint"],
    "export around it": [*EXPORT, "--out", "."],
    "quantize": [*QUANTIZE, "--out", "artifact"],
    "quantize by a link": [*QUANTIZE, "--out", "link"],
    "quantize into a part of it": [*QUANTIZE, "--out", "artifact/tokenizer"],
    "a timing cache in the artifact": [*BUILD, "--timing-cache", "planless/model.onnx"],
    "a new timing cache in the artifact": [*BUILD, "--timing-cache", "planless/timing"],
    "a timing cache in the output": [*BUILD, "--out", "out", "--timing-cache", "out/timing"],
    "triton over its artifact": [
        "triton",
        f"repository/{MODEL}/1/artifact",
        "--out",
        "repository",
    ],
}


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("line", ONES_OWN.values(), ids=ONES_OWN)
def test_what_is_read_is_never_written(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: list[str],
) -> None:
    monkeypatch.chdir(folder)
    before = tree(folder)
    assert main(line) == 1
    assert "name another" in capsys.readouterr().err
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("start.sh", lambda path: path.write_text("#!/bin/sh\nrm -rf\n")),
        (MODEL, lambda path: path.write_text("mine")),
        (MODEL, lambda path: path.mkdir()),
        (f"{MODEL}/config.pbtxt", lambda path: path.write_text('name: "mine"')),
        (f"{MODEL}/config.pbtxt", lambda path: path.write_bytes(b"\xff\xfe")),
    ],
)
def test_a_repository_of_ones_own_is_kept(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, make: Callable[[Path], object]
) -> None:
    out = folder / "mine"
    (out / name).parent.mkdir(parents=True)
    make(out / name)
    before = tree(out)
    assert main(["triton", str(folder / "artifact"), "--out", str(out)]) == 1
    assert "move it away" in capsys.readouterr().err
    assert tree(out) == before


def test_a_model_of_triton_s_that_was_added_to_is_kept(folder: Path) -> None:
    line = ["triton", str(folder / "artifact"), "--out", str(folder / "out")]
    assert main(line) == 0
    (folder / "out" / MODEL / "2").mkdir()
    assert main(line) == 1
    (folder / "out" / MODEL / "2").rmdir()
    assert main(line) == 0


def test_a_repository_killed_anywhere_is_complete_after_the_next_run(folder: Path) -> None:
    out = folder / "out"
    line = ["triton", str(folder / "artifact"), "--out", str(out)]
    setup = f"""
from pathlib import Path
from exporter.cli import main
from exporter.triton import repository
out = Path({str(out / MODEL)!r})
"""
    deaths = die_everywhere(
        setup,
        f"assert main({line!r}) == 0",
        "assert not out.exists() or {p.name for p in out.iterdir()} == {'1', 'config.pbtxt'}",
        str(out),
    )
    assert deaths > 8
    assert sorted(path.name for path in out.iterdir()) == [MODEL, "start.sh"]


def test_a_tuning_beside_files_with_odd_names_touches_none(folder: Path) -> None:
    from runtime.tuning import Tuning, write_tuning

    mine = folder / "artifact" / f"{TUNING_FILE}.partial"
    mine.write_text("mine")
    found = Tuning(
        conditions={}, token_budget=1, padding_waste=0.0, tokens_per_s=1.0, default_tokens_per_s=1.0
    )
    write_tuning(folder / "artifact", found)
    assert mine.read_text() == "mine"
    assert (folder / "artifact" / TUNING_FILE).exists()
