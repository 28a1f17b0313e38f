"""What commands write: one at a time, whole or not at all, and never over what is read."""

import os
import stat
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from runtime.errors import OutputRefused
from runtime.outputs import (
    MARK,
    atomic_directory,
    atomic_file,
    exit_on_refusal,
    file_place,
    foreign_file,
    locked_directory,
    locked_work_folder,
    place_of,
    refuse_inputs,
    write_atomic,
)
from tests.dying import die_everywhere
from tests.trees import tree


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def nobody(_: Path) -> None:
    """Refuses nothing."""


def test_a_file_is_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "x.json", b"one")
    write_atomic(tmp_path / "a" / "x.json", b"two")
    assert tree(tmp_path) == {"a": None, "a/x.json": b"two"}


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed_and_stays(tmp_path: Path, there: bool) -> None:
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    real.parent.mkdir()
    if there:
        real.write_bytes(b"old")
    link.symlink_to(real)
    write_atomic(link, b"new")
    assert tree(tmp_path) == {"disk": None, "disk/real": b"new", "link": str(real)}


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OutputRefused, match="leads to itself"):
        write_atomic(tmp_path / "a", b"")


def test_only_a_file_is_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, kind in ((tmp_path, "a directory"), (tmp_path / "pipe", "no regular file")):
        with pytest.raises(OutputRefused, match=kind):
            write_atomic(place, b"")
    with pytest.raises(OutputRefused, match="no regular file"):
        file_place(Path("/dev/null"))
    assert names(tmp_path) == ["pipe"]


@pytest.mark.parametrize("kind", ["file", "folder", "link", "marked link"])
def test_what_bears_the_name_of_our_folder_is_left_alone(tmp_path: Path, kind: str) -> None:
    mine, elsewhere = tmp_path / ".x.writing", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / (MARK if kind == "marked link" else "thesis")).write_text("mine")
    if kind == "file":
        mine.write_text("mine")
    elif kind == "folder":
        mine.mkdir()
        (mine / "new").write_text("mine")
    else:
        mine.symlink_to(elsewhere)
    before = tree(tmp_path)
    with pytest.raises(OutputRefused, match=r"\.x\.writing"):
        write_atomic(tmp_path / "x", b"")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_file_that_is_replaced_keeps_who_may_read_it(tmp_path: Path, mode: int) -> None:
    mine = tmp_path / "x"
    mine.write_bytes(b"old")
    mine.chmod(mode)
    write_atomic(mine, b"new")
    assert stat.S_IMODE(mine.stat().st_mode) == mode
    assert mine.read_bytes() == b"new"


def test_an_unfinished_file_is_as_private_as_the_one_it_replaces(tmp_path: Path) -> None:
    (tmp_path / "x").touch(mode=0o600)
    with (
        locked_work_folder(tmp_path / "x", "work") as folder,
        atomic_file(folder, tmp_path / "x") as file,
    ):
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600


def test_a_folder_that_another_user_left_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".x.writing"
    folder.mkdir()
    for name in (MARK, "journal"):
        (folder / name).touch()
    before = tree(tmp_path)
    # As it is for who is not root.
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != folder)
    with pytest.raises(OutputRefused, match=r"\.x\.writing is not writable: another user"):
        write_atomic(tmp_path / "x", b"")
    assert tree(tmp_path) == before


def test_a_foreign_file_is_found_at_any_depth(tmp_path: Path) -> None:
    for name in ("model", "1/model", "1/mine", "1/.model.writing/half", f"1/.model.writing/{MARK}"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert foreign_file(tmp_path, {"model", "1/model"}) == "1/mine"
    assert foreign_file(tmp_path, {"model", "1/model", "1/mine"}) is None
    (tmp_path / "a link").symlink_to(tmp_path / "1")
    assert foreign_file(tmp_path, {"model", "1/model", "1/mine"}) == "a link"
    assert foreign_file(tmp_path / "absent", set()) is None


def test_a_refusal_ends_a_command_in_one_line() -> None:
    with pytest.raises(SystemExit) as ended, exit_on_refusal():
        raise OutputRefused("name another --out")
    assert ended.value.code == "name another --out"


@pytest.mark.parametrize("kind", ["with content", "link"])
def test_a_mark_that_is_somebodys_file_is_none(tmp_path: Path, kind: str) -> None:
    mine = tmp_path / ".x.writing"
    mine.mkdir()
    if kind == "link":
        (tmp_path / "empty").touch()
        (mine / MARK).symlink_to(tmp_path / "empty")
    else:
        (mine / MARK).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(OutputRefused, match=r"\.x\.writing is not a folder of this command"):
        write_atomic(tmp_path / "x", b"")
    assert tree(tmp_path) == before


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputRefused, match=r"cannot write beside .*/file/x"):
        write_atomic(tmp_path / "file" / "x", b"")
    with pytest.raises(OutputRefused, match="cannot write beside /proc/x"):
        write_atomic(Path("/proc/x"), b"")


def test_a_second_writer_is_refused_however_the_output_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "there").symlink_to(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "out")
    monkeypatch.chdir(tmp_path)
    spelled = ("real/out", "there/out", "link", "real/../there/./out", f"{tmp_path}/real/out")
    with locked_work_folder(Path("real/out"), "work") as folder:
        for out in spelled:
            with pytest.raises(OutputRefused, match=f"writes {Path(out)}"):
                locked_work_folder(Path(out), "work").__enter__()
        with locked_work_folder(Path("real/other"), "work"):
            pass
        assert folder.is_dir()
    assert names(tmp_path / "real") == []


def test_one_that_waits_comes_after_the_first(tmp_path: Path) -> None:
    first, order = locked_work_folder(tmp_path / "x", "work"), []

    def second() -> None:
        with locked_work_folder(tmp_path / "x", "work", wait=True):
            order.append("second")

    with first:
        waiting = threading.Thread(target=second)
        waiting.start()
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    assert names(tmp_path) == []


def test_what_is_unfinished_stays_for_the_next(tmp_path: Path) -> None:
    with locked_work_folder(tmp_path / "x", "work") as folder:
        (folder / "journal").write_text("half")
    with locked_work_folder(tmp_path / "x", "work") as folder:
        assert (folder / "journal").read_text() == "half"


def test_a_directory_is_for_one(tmp_path: Path) -> None:
    with locked_directory(tmp_path), pytest.raises(OutputRefused, match=f"works in {tmp_path}"):
        locked_directory(tmp_path).__enter__()
    with locked_directory(tmp_path):
        pass


def test_writers_of_many_threads_leave_one_whole_file(tmp_path: Path) -> None:
    contents = [bytes([letter]) * 100_000 for letter in b"abcdefgh"]
    threads = [
        threading.Thread(target=write_atomic, args=(tmp_path / "x", one)) for one in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() in contents


Given = Callable[[Path], Path]
INPUTS: dict[str, Given] = {
    "itself": lambda out: out,
    "by a link": lambda out: linked(out.with_name("link"), out),
    "by a hard link": lambda out: hard_linked(out.with_name("hard"), out),
    "by another way": lambda out: out.parent / ".." / out.parent.name / out.name,
    "a folder around it": lambda out: out.parent,
}


def linked(link: Path, to: Path) -> Path:
    link.symlink_to(to)
    return link


def hard_linked(link: Path, to: Path) -> Path:
    os.link(to, link)
    return link


@pytest.mark.parametrize("given", INPUTS.values(), ids=INPUTS)
def test_an_output_that_is_read_is_refused(tmp_path: Path, given: Given) -> None:
    out = tmp_path / "data" / "x.jsonl"
    out.parent.mkdir()
    out.write_text("mine")
    read = given(out)
    with pytest.raises(OutputRefused, match="input"):
        refuse_inputs(out, read)
    with pytest.raises(OutputRefused, match="input"):
        refuse_inputs(read, out)
    refuse_inputs(tmp_path / "other", out, tmp_path / "absent")
    refuse_inputs(tmp_path / "data-2", out.parent)


def test_a_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for version in ("one", "two"):
        with atomic_directory(out, "work", nobody) as new:
            (new / version).write_text(version)
            assert names(tmp_path)[0] == ".out.work"
    assert tree(tmp_path) == {"out": None, "out/two": b"two"}


def test_what_came_into_the_directory_meanwhile_is_not_lost(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def refuse(place: Path) -> None:
        if place.exists():
            raise OutputRefused("it holds something")

    def replace_it() -> None:
        with atomic_directory(out, "work", refuse):
            out.mkdir()
            (out / "thesis").write_text("mine")

    with pytest.raises(OutputRefused):
        replace_it()
    assert tree(tmp_path) == {"out": None, "out/thesis": b"mine"}


def test_a_directory_that_somebody_works_in_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for other in (locked_directory(tmp_path / "out"), locked_work_folder(tmp_path / "out", "work")):
        busy: AbstractContextManager[object] = other
        with busy, pytest.raises(OutputRefused, match="another command"):
            atomic_directory(tmp_path / "out", "work", nobody).__enter__()
    with nullcontext(), atomic_directory(tmp_path / "out", "work", nobody):
        pass


def test_a_writer_killed_anywhere_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    setup = f"""
from pathlib import Path
from runtime.outputs import write_atomic
x = Path({str(tmp_path)!r}) / "x"
"""
    deaths = die_everywhere(
        setup,
        "write_atomic(x, b'new')",
        "assert x.read_bytes() in (b'old', b'new')",
        str(tmp_path),
    )
    assert deaths > 5
    assert tree(tmp_path) == {"x": b"new"}


def test_a_directory_killed_anywhere_is_the_old_or_the_new_one_for_the_next(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    setup = f"""
from pathlib import Path
from runtime.outputs import atomic_directory
out = Path({str(tmp_path)!r}) / "out"
def refuse(place):
    assert place.exists() and [p.name for p in place.iterdir()] in (["old"], ["new"])
"""
    work = "with atomic_directory(out, 'work', refuse) as new:\n    (new / 'new').touch()"
    deaths = die_everywhere(setup, work, "pass", str(tmp_path))
    assert deaths > 8
    assert tree(tmp_path) == {"out": None, "out/new": b""}


def test_the_place_of_a_link_is_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    assert place_of(tmp_path / "link") == tmp_path.resolve() / "elsewhere"
