"""A directory appears whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.errors import OutputRefused, ParityFailed
from exporter.workspace import workspace


def fill(directory: Path, text: str = "new") -> None:
    (directory / "manifest.json").write_text(text)


def fail(out: Path, error: BaseException) -> None:
    with workspace(out) as partial:
        fill(partial)
        (partial / "parity.json").write_text("{}")
        raise error


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_the_directory_appears_at_the_end(tmp_path: Path) -> None:
    with workspace(tmp_path / "a" / "out") as partial:
        fill(partial)
        assert names(tmp_path / "a") == [partial.name]
    assert names(tmp_path / "a") == ["out"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_of_work_that_failed(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fail(tmp_path / "out", error())
    assert names(tmp_path) == []


def test_a_failed_parity_keeps_its_report(tmp_path: Path) -> None:
    with pytest.raises(ParityFailed) as failed:
        fail(tmp_path / "out", ParityFailed("logits", "pair x"))
    assert failed.value.report == tmp_path / "out.failed-parity.json"
    assert names(tmp_path) == ["out.failed-parity.json"]


def test_an_artifact_is_replaced_and_kept_when_the_new_one_fails(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fill(out, "old")
    with pytest.raises(RuntimeError), workspace(out):
        raise RuntimeError
    assert (out / "manifest.json").read_text() == "old"
    with workspace(out) as partial:
        fill(partial)
    assert (out / "manifest.json").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_what_no_export_wrote_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputRefused, match=r"no manifest\.json"), workspace(tmp_path):
        raise AssertionError
    file = tmp_path / "thesis.txt"
    with pytest.raises(OutputRefused), workspace(file):
        raise AssertionError
    assert file.read_text() == "years of work"


def test_leftovers_of_the_dead_are_cleared_and_of_the_living_kept(tmp_path: Path) -> None:
    dead = dead_pid()
    (tmp_path / f".out.partial-{dead}").mkdir()
    (tmp_path / f".out.partial-{os.getppid()}").mkdir()
    (tmp_path / f".other.partial-{dead}").mkdir()
    with workspace(tmp_path / "out") as partial:
        fill(partial)
    kept = {f".out.partial-{os.getppid()}", f".other.partial-{dead}", "out"}
    assert set(names(tmp_path)) == kept


def test_an_artifact_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    old = tmp_path / f".out.old-{dead_pid()}"
    old.mkdir()
    fill(old, "old")
    with pytest.raises(RuntimeError), workspace(tmp_path / "out"):
        raise RuntimeError
    assert (tmp_path / "out" / "manifest.json").read_text() == "old"
