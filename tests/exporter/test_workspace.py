"""A directory appears whole or not at all."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from exporter.errors import OutputRefused, ParityFailed
from exporter.report import Parity, write_report
from exporter.workspace import link_or_copy, refuse_foreign, workspace
from runtime.manifest import read_manifest, unproven_manifest, write_manifest
from runtime.outputs import MARK
from runtime.tuning import TUNING_FILE
from tests.hub_cache import as_snapshot


def fill(directory: Path, version: str = "new") -> None:
    """An artifact as far as this room looks: a manifest that knows the other files."""
    (directory / "model.onnx").write_text(version)
    manifest = unproven_manifest(
        "tiny-rerank-v1",
        target="cpu-fp32",
        version=version,
        precision="fp32",
        pad_id=0,
        inputs=[],
        outputs=[],
    )
    write_manifest(directory, msgspec.structs.replace(manifest, files={"model.onnx": "sha256:"}))


def version(directory: Path) -> str:
    return read_manifest(directory).version


FACTS: dict[str, Any] = {"versions": {}, "hardware": {}}


def fail(out: Path, error: BaseException) -> None:
    with workspace(out) as partial:
        fill(partial)
        write_report(partial, Parity(engine="e", precision="fp32", rule="trained", **FACTS))
        raise error


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def replace_with_new(out: Path) -> None:
    with workspace(out) as partial:
        fill(partial)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An artifact of an earlier export."""
    directory = tmp_path / "out"
    directory.mkdir()
    fill(directory, "old")
    return directory


def test_the_directory_appears_at_the_end(tmp_path: Path) -> None:
    with workspace(tmp_path / "a" / "out") as partial:
        fill(partial)
        assert names(tmp_path / "a") == [".out.rerank-export"]
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


def test_an_artifact_is_replaced_and_kept_when_the_new_one_fails(out: Path, tmp_path: Path) -> None:
    with pytest.raises(ParityFailed):
        fail(out, ParityFailed("logits", "pair x"))
    assert version(out) == "old"
    replace_with_new(out)
    assert version(out) == "new"
    assert names(tmp_path) == ["out"]


def test_a_tuned_artifact_is_replaced_with_its_tuning(out: Path) -> None:
    (out / TUNING_FILE).write_text("{}")
    replace_with_new(out)
    assert names(out) == ["manifest.json", "model.onnx"]


@pytest.mark.parametrize("name", ["thesis.txt", "manifest.json"])
def test_what_no_export_wrote_is_not_touched(tmp_path: Path, name: str) -> None:
    file = tmp_path / "web" / name
    file.parent.mkdir()
    file.write_text('{"name": "a web application"}')
    for place in (file.parent, file):
        with pytest.raises(OutputRefused):
            replace_with_new(place)
    assert file.exists()


def test_a_users_own_file_in_an_artifact_is_not_touched(out: Path) -> None:
    (out / "notes.txt").write_text("years of work")
    with pytest.raises(OutputRefused, match=r"notes\.txt"):
        replace_with_new(out)
    assert (out / "notes.txt").exists()


def test_a_mount_point_is_refused_before_any_work() -> None:
    with pytest.raises(OutputRefused, match="mount point"):
        refuse_foreign(Path("/proc"))


@pytest.mark.parametrize("present", [True, False])
def test_a_link_is_followed(tmp_path: Path, present: bool) -> None:
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    if present:
        real.mkdir(parents=True)
    link.symlink_to(real)
    for _ in range(2):
        replace_with_new(link)
        assert link.is_symlink()
        assert version(real) == "new"
    assert names(tmp_path) == ["disk", "link"]
    assert names(real.parent) == ["real"]


def test_a_rename_that_fails_leaves_the_old_artifact(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_with_new(out)
    assert version(out) == "old"
    assert names(tmp_path) == ["out"]


def test_a_second_export_to_one_place_is_refused(out: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(out)
    with workspace(out) as partial:
        fill(partial)
        for place in (out, tmp_path / "link"):
            with pytest.raises(OutputRefused, match="another command writes"):
                replace_with_new(place)
    assert version(out) == "new"


def test_leftovers_of_the_dead_are_cleared_and_those_of_others_kept(tmp_path: Path) -> None:
    for name in (".out.rerank-export", ".out.partial-0dead", ".other.rerank-export"):
        (tmp_path / name / "new").mkdir(parents=True)
    (tmp_path / ".out.rerank-export" / MARK).touch()
    replace_with_new(tmp_path / "out")
    assert names(tmp_path) == [".other.rerank-export", ".out.partial-0dead", "out"]


def test_an_artifact_that_was_being_replaced_comes_back(out: Path, tmp_path: Path) -> None:
    folder = tmp_path / ".out.rerank-export"
    folder.mkdir()
    (folder / MARK).touch()
    out.rename(folder / "old")
    with pytest.raises(RuntimeError), workspace(out):
        raise RuntimeError
    assert version(out) == "old"
    assert names(tmp_path) == ["out"]


def test_what_was_put_into_the_artifact_meanwhile_is_not_lost(out: Path) -> None:
    def with_notes() -> None:
        with workspace(out) as partial:
            fill(partial)
            (out / "notes.txt").write_text("years of work")

    with pytest.raises(OutputRefused, match=r"notes\.txt"):
        with_notes()
    assert version(out) == "old"
    assert (out / "notes.txt").exists()


def test_what_a_killed_tuning_left_is_no_reason_to_refuse(out: Path) -> None:
    (out / ".tuning.json.writing").mkdir()
    (out / ".tuning.json.writing" / MARK).touch()
    replace_with_new(out)
    assert names(out) == ["manifest.json", "model.onnx"]


@pytest.mark.parametrize("content", ['{"mine": 1}', "years of work", '["rungs"]', "{}"])
def test_a_users_own_file_with_the_name_of_a_report_is_kept(tmp_path: Path, content: str) -> None:
    mine = tmp_path / "out.failed-parity.json"
    mine.write_text(content)
    for _ in range(2):
        with pytest.raises(ParityFailed) as failed:
            fail(tmp_path / "out", ParityFailed("logits", "pair x"))
        assert failed.value.report == tmp_path / "out.failed-parity-2.json"
    replace_with_new(tmp_path / "out")
    assert mine.read_text() == content


def test_the_report_of_a_failure_goes_with_the_next_success(tmp_path: Path) -> None:
    with pytest.raises(ParityFailed):
        fail(tmp_path / "out", ParityFailed("logits", "pair x"))
    replace_with_new(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_a_file_in_the_hub_s_cache_is_linked_where_it_really_is(tmp_path: Path) -> None:
    """Its own link would lead elsewhere from another place."""
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "model.onnx").write_bytes(b"graph")
    snapshot = as_snapshot(artifact, tmp_path / "hub")
    link_or_copy(snapshot / "model.onnx", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").is_symlink()
    assert (tmp_path / "model.onnx").read_bytes() == b"graph"
