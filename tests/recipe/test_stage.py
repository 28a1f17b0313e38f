"""The common parts of all stages: marks, locks, continuing, and refusals."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import msgspec
import pytest

from recipe.durable import Journal, write_atomic
from recipe.errors import BadInput, OutputRefused
from recipe.stage import DONE_FILE, STARTED_FILE, Input, Stage, hash_of, perform, state
from tests.recipe.killing import environment
from tests.trees import tree


class Toy(msgspec.Struct, frozen=True, kw_only=True):
    """Copies `source` to `folder`, `times` times."""

    source: str
    folder: str
    times: int = 2
    threads: int = 1
    seed: int = 42

    @property
    def home(self) -> Path:
        return Path(self.folder)


def run(settings: Toy, log: Callable[[str], None]) -> None:
    """Refuses to work while a file called `stop` exists in the folder."""
    folder = Path(settings.folder)
    if (folder / "stop").exists():
        raise KeyboardInterrupt
    (folder / "copy.txt").write_text(Path(settings.source).read_text() * settings.times)
    log("copied")


TOY = Stage(
    name="toy",
    about="copies",
    settings=Toy,
    inputs=lambda settings: [Input(Path(settings.source), "text", "writer")],
    outputs=lambda settings: [Path(settings.folder) / "copy.txt"],
    check=lambda _: None,
    plan=lambda settings: [f"copy {settings.source}"],
    run=run,
    free=frozenset({"threads"}),
)


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """A source of one word."""
    (tmp_path / "source.txt").write_text("word ")
    return Toy(source=str(tmp_path / "source.txt"), folder=str(tmp_path / "out"))


def go(settings: Toy, stage: Stage[Toy] = TOY, *, force: bool = False) -> bool:
    return perform(stage, settings, force=force, log=lambda _: None)


def test_the_mark_is_last_and_says_where_the_output_comes_from(toy: Toy) -> None:
    assert state(TOY, toy) == "not begun"
    assert go(toy)
    assert state(TOY, toy) == "finished"
    mark = json.loads((Path(toy.folder) / DONE_FILE).read_text())
    assert mark["settings"] == msgspec.to_builtins(toy)
    assert mark["inputs"] == {toy.source: hash_of(Path(toy.source))}
    assert mark["finished_at"] >= mark["started_at"]
    assert not (Path(toy.folder) / STARTED_FILE).exists()


def test_a_second_run_does_nothing_and_another_one_is_refused(toy: Toy) -> None:
    go(toy)
    assert not go(toy)
    assert not go(msgspec.structs.replace(toy, threads=8))  # changes no result
    other = msgspec.structs.replace(toy, times=3)
    with pytest.raises(OutputRefused, match="finished with times = 2, wanted 3"):
        go(other)
    assert go(other, force=True)
    assert (Path(toy.folder) / "copy.txt").read_text() == "word " * 3


def test_another_content_of_an_input_is_noticed(toy: Toy) -> None:
    go(toy)
    Path(toy.source).write_text("other ")
    with pytest.raises(OutputRefused, match=r"another content of .*source\.txt"):
        go(toy)


def test_an_interrupted_run_goes_on_only_with_its_own_settings(toy: Toy) -> None:
    folder = Path(toy.folder)
    folder.mkdir()
    (folder / "stop").touch()
    with pytest.raises(KeyboardInterrupt):
        go(toy)
    assert state(TOY, toy) == "begun"
    with pytest.raises(OutputRefused, match="begun with times = 2, wanted 3"):
        go(msgspec.structs.replace(toy, times=3))
    (folder / "stop").unlink()
    assert go(toy)
    assert (folder / "copy.txt").read_text() == "word " * 2


def test_a_finished_stage_that_was_begun_again_is_not_called_finished(toy: Toy) -> None:
    adding = replace(TOY, again="changed")
    go(toy, adding)
    (Path(toy.folder) / "stop").touch()
    with pytest.raises(KeyboardInterrupt):
        go(msgspec.structs.replace(toy, times=3), adding)
    assert state(adding, msgspec.structs.replace(toy, times=3)) == "begun"
    (Path(toy.folder) / "stop").unlink()
    assert go(msgspec.structs.replace(toy, times=3), adding)
    assert state(adding, msgspec.structs.replace(toy, times=3)) == "finished"
    assert state(TOY, toy) == (
        "finished with times = 3, wanted 2; a run is refused without --force"
    )


def test_files_of_others_are_left_alone(toy: Toy) -> None:
    copy = Path(toy.folder) / "copy.txt"
    copy.parent.mkdir()
    copy.write_text("mine")
    (copy.parent / "notes.txt").write_text("mine too")
    with pytest.raises(OutputRefused, match=r"no done\.json says what made it"):
        go(toy)
    assert copy.read_text() == "mine"
    assert go(toy, force=True)
    assert (copy.parent / "notes.txt").read_text() == "mine too"


FOLDER = replace(TOY, outputs=lambda settings: [Path(settings.folder) / "made"])


def test_force_renames_what_others_made_and_removes_what_the_stage_made(
    toy: Toy, tmp_path: Path
) -> None:
    def make(settings: Toy, log: Callable[[str], None]) -> None:
        (Path(settings.folder) / "made").mkdir()
        (Path(settings.folder) / "made" / "new").touch()

    stage, folder = replace(FOLDER, run=make), Path(toy.folder)
    (folder / "made").mkdir(parents=True)
    (folder / "made" / "thesis").touch()
    (folder / "made.before-1").touch()
    with pytest.raises(OutputRefused, match="which renames it"):
        go(toy, stage)
    for times in (2, 3):
        go(msgspec.structs.replace(toy, times=times), stage, force=True)
    assert tree(folder).keys() - {DONE_FILE} == {
        "made",
        "made.before-1",
        "made.before-2",
        "made.before-2/thesis",
        "made/new",
    }


def test_force_empties_what_a_link_leads_to_and_leaves_the_link(toy: Toy, tmp_path: Path) -> None:
    def make(settings: Toy, log: Callable[[str], None]) -> None:
        (Path(settings.folder) / "made").mkdir(exist_ok=True)
        write_atomic(Path(settings.folder) / "made" / f"{settings.times}", b"")

    stage, folder, disk = replace(FOLDER, run=make), Path(toy.folder), tmp_path / "disk"
    go(toy, stage)
    (folder / "made").rename(disk)
    (folder / "made").symlink_to(disk)
    go(msgspec.structs.replace(toy, times=3), stage, force=True)
    assert (folder / "made").is_symlink()
    assert tree(disk) == {"3": b""}


@pytest.mark.parametrize("force", [False, True])
def test_an_input_that_is_an_output_is_refused(toy: Toy, force: bool) -> None:
    copy = Path(toy.folder) / "copy.txt"
    copy.parent.mkdir()
    os.link(toy.source, copy)
    for source in (toy.source, str(copy), toy.folder):
        with pytest.raises(OutputRefused, match="name another output"):
            go(msgspec.structs.replace(toy, source=source), force=force)
    assert copy.read_text() == "word "


def test_a_mark_of_another_stage_is_respected(toy: Toy) -> None:
    go(toy)
    before = tree(Path(toy.folder))
    with pytest.raises(OutputRefused, match="holds output of the stage toy"):
        go(toy, replace(TOY, name="other"), force=True)
    assert tree(Path(toy.folder)) == before


def test_a_missing_input_names_its_maker(toy: Toy) -> None:
    Path(toy.source).unlink()
    with pytest.raises(BadInput, match="run `rerank writer` with the same -c first"):
        go(toy)


def test_two_runs_do_not_share_a_folder(toy: Toy) -> None:
    folder = Path(toy.folder)
    folder.mkdir()
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(OutputRefused, match="another run of toy works in"):
            go(toy)
    finally:
        os.close(handle)


def test_a_stage_that_adds_runs_again_when_something_changed(toy: Toy) -> None:
    adding, anew = replace(TOY, again="changed"), replace(TOY, again="always")
    go(toy, adding)
    assert not go(toy, adding)
    assert go(msgspec.structs.replace(toy, times=3), adding)
    assert go(msgspec.structs.replace(toy, times=3), anew)


def test_a_stage_that_mends_keeps_the_provenance_of_what_it_left_alone(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    mending, folder = replace(TOY, again="repair"), Path(toy.folder)
    go(toy, mending)
    made = json.loads((folder / DONE_FILE).read_text())
    monkeypatch.setattr(metadata, "version", lambda _: "later")
    (folder / "stop").touch()
    with pytest.raises(KeyboardInterrupt):
        go(toy, mending)
    (folder / "stop").unlink()
    assert go(toy, mending)
    after = json.loads((folder / DONE_FILE).read_text())
    assert {**after, "finished_at": None} == {**made, "finished_at": None}
    assert go(toy, replace(TOY, again="always"))
    assert json.loads((folder / DONE_FILE).read_text())["versions"]["numpy"] == "later"


@pytest.mark.parametrize("content", ["{", '{"more":' + "[" * 90_000])
def test_a_mark_that_cannot_be_read_is_refused(toy: Toy, content: str) -> None:
    go(toy)
    (Path(toy.folder) / DONE_FILE).write_text(content)
    with pytest.raises(OutputRefused, match="cannot be read"):
        go(toy)


def test_a_journal_forgets_only_its_torn_last_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    assert journal.read() == []
    with journal.open() as writer:
        writer.write({"a": 1})
        writer.write({"a": 2})
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"a": 3')
    assert journal.read() == [{"a": 1}, {"a": 2}]
    with journal.open() as writer:
        writer.write({"a": 4})
    assert journal.read() == [{"a": 1}, {"a": 2}, {"a": 4}]


class Entry(msgspec.Struct):
    key: str
    body: int


@pytest.mark.parametrize(
    ("content", "number"),
    [
        (b"years of work", 1),
        (b'{"key":"a","body":1}\nyears of work', 2),
        (b'{"key":"a","body":1}\n["x"]\n{"key":"b","body":2}\n', 2),
        (b'{"key":"a","body":1}\n\0\0\0\0\n', 2),
        (b'{"key":"a","body":1}\n\xff\n', 2),
        (b'{"other":1}\n{"key":"a","bo', 1),
    ],
)
def test_a_journal_that_is_damaged_or_somebody_else_s_is_never_cut(
    tmp_path: Path, content: bytes, number: int
) -> None:
    file = tmp_path / "journal.jsonl"
    file.write_bytes(content)
    with pytest.raises(OutputRefused, match=rf"line {number} of .*journal\.jsonl"):
        Journal(file, Entry).read()
    assert file.read_bytes() == content


@pytest.mark.parametrize("torn", [b"{", b'{"key":', b'{"key":"c","body":'])
def test_what_is_torn_of_a_journal_is_cut(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "journal.jsonl"
    for whole in (b"", b'{"key":"a","body":1}\n'):
        file.write_bytes(whole + torn)
        assert len(Journal(file, Entry).read()) == whole.count(b"\n")
        assert file.read_bytes() == whole


def test_what_failed_before_it_made_anything_has_not_begun(toy: Toy) -> None:
    wrong = msgspec.structs.replace(toy, times=-1)

    def fail(settings: Toy, log: Callable[[str], None]) -> None:
        if settings.times < 0:
            raise BadInput("found -1 times")
        run(settings, log)

    stage = replace(TOY, run=fail)
    with pytest.raises(BadInput):
        go(wrong, stage)
    assert state(TOY, wrong) == "not begun"
    assert go(toy, stage)


# The disk takes the first bytes of a line only: without another write that looks like success.
FULL_DISK = """
import resource, sys
from pathlib import Path
from recipe.durable import Journal
with Journal(Path(sys.argv[1])).open() as writer:
    writer.write({"a": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (12, resource.RLIM_INFINITY))
    try:
        writer.write({"a": 2})
    finally:  # as another thread may, once there is room again
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        writer.write({"a": 3})
"""


def test_a_line_that_does_not_fit_on_the_disk_is_no_success(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    command = [sys.executable, "-c", FULL_DISK, str(file)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert file.read_text() == '{"a":1}\n{"a":3}\n'
