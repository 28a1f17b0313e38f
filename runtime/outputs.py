"""What commands write: one writer at a time, whole or not at all, and never over what is read.

While an output NAME is written, the folder `.NAME.PURPOSE` beside it holds what is unfinished. Its
writer has it locked; the kernel drops the lock when that process ends, however it ends. The lock
(flock) holds between the processes of one machine: a network file system need not pass it on to
others. An empty file MARK in the folder says that it is one of these folders: what bears the name
without the mark is somebody else's, and is refused and left alone. Links to an output are followed,
so that however an output is spelled, its writers meet in one folder.
"""

import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from runtime.errors import OutputRefused

MARK = "made-by-open-rerank"
_NEW, _OLD = "new", "old"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def place_of(out: Path) -> Path:
    """Where `out` really lies, be it there or not. Raises OutputRefused for links in a circle."""
    place = Path(os.path.realpath(out))
    if place.is_symlink():
        raise OutputRefused(f"{out} is a link that leads to itself; remove it, or name another")
    return place


def file_place(out: Path) -> Path:
    """`place_of` for a file; OutputRefused where something else is in its place."""
    if out.exists() and not out.is_file():
        kind = "a directory" if out.is_dir() else "no regular file"
        raise OutputRefused(f"{out} is {kind} and is not replaced; name a file")
    return place_of(out)


def refuse_inputs(out: Path, *inputs: Path) -> None:
    """Raise OutputRefused where `out` is one of the `inputs` under any name, or one of the two
    lies in the other: who writes, replaces or removes `out` would change what is read."""
    place = place_of(out)
    for given in inputs:
        found = Path(os.path.realpath(given))
        if _lies_in(place, found) or _lies_in(found, place):
            same = _is_same(place, found)
            how = "is the input itself" if same else f"and the input {given} lie in one another"
            raise OutputRefused(f"{out} {how}; name another output")


def _lies_in(inner: Path, outer: Path) -> bool:
    """By their names, and by what they are: a name may have two spellings, a file two names."""
    return inner.is_relative_to(outer) or any(
        _is_same(one, outer) for one in (inner, *inner.parents)
    )


def _is_same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return one == other or os.path.samefile(one, other)
    return False


@contextmanager
def locked_directory(directory: Path, refusal: str | None = None) -> Iterator[None]:
    """Have the directory for this process alone until the block ends. Raises OutputRefused, with
    the words of `refusal`, where another one has it."""
    handle = os.open(directory, _DIRECTORY)
    try:
        _lock(handle, refusal or f"another command works in {directory}; wait until it has ended")
        yield
    finally:
        os.close(handle)


def work_folder(out: Path, purpose: str) -> Path:
    """Where `locked_work_folder` works, be it there or not."""
    place = place_of(out)
    return place.with_name(f".{place.name}.{purpose}")


@contextmanager
def locked_work_folder(out: Path, purpose: str, *, wait: bool = False) -> Iterator[Path]:
    """The folder `.NAME.PURPOSE` beside `out`, with what a process that was killed left in it.

    When the block ends, it is removed if it is empty. Raises OutputRefused where another process
    has it, unless this is to `wait` for that, and where it is somebody else's or cannot be made.
    """
    place, folder = place_of(out), work_folder(out, purpose)
    refusal = f"another command writes {out}; wait until it has ended, or name another output"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle = _open_locked(folder, None if wait else refusal)
    except OSError as error:
        raise OutputRefused(
            f"cannot write beside {place} ({folder.name}: {error.strerror}); move away what has "
            f"that name, make {place.parent} writable, or name another output"
        ) from error
    try:
        _mark(folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputRefused(
                f"{folder} is not writable: another user's command left it; let that user go on or "
                "remove it, or name another output"
            )
        yield folder
    finally:
        with suppress(OSError):
            if os.listdir(folder) == [MARK] and is_work_folder(folder):
                (folder / MARK).unlink()
                folder.rmdir()
        os.close(handle)


def is_work_folder(folder: Path) -> bool:
    """Whether this is a folder of `locked_work_folder`, which a killed process may have left.

    Its mark is an empty file: what has content, or leads elsewhere, is somebody else's.
    """
    try:
        found = (folder / MARK).lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == 0


def foreign_file(directory: Path, known: Collection[str]) -> str | None:
    """The first file in `directory`, at any depth, whose path in it is none of the `known`.

    What killed processes left in work folders is nobody's.
    """
    found = (path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())
    names = (p.relative_to(directory).as_posix() for p in found if not is_work_folder(p.parent))
    return min((name for name in names if name not in known), default=None)


@contextmanager
def exit_on_refusal() -> Iterator[None]:
    """Let OutputRefused end a command that has no other errors of its own, without a traceback."""
    try:
        yield
    except OutputRefused as error:
        sys.exit(str(error))


@contextmanager
def atomic_file(folder: Path, place: Path) -> Iterator[BinaryIO]:
    """A file in the work folder `folder` that takes the place of `place` when it lies on the disk,
    and is gone when the block fails."""
    new = folder / _NEW
    try:
        with new.open("wb") as file:
            with suppress(FileNotFoundError):
                os.fchmod(file.fileno(), stat.S_IMODE(place.stat().st_mode))  # it may be private
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.replace(place)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    _sync(place.parent)


def write_atomic(path: Path, content: bytes) -> None:
    """Let `path` have this content once it lies on the disk; other writers wait for each other.

    Raises OutputRefused.
    """
    place = file_place(path)
    with (
        locked_work_folder(place, "writing", wait=True) as folder,
        atomic_file(folder, place) as file,
    ):
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of `value` as indented JSON."""
    import msgspec  # late: benchmarks/gpu runs where it is not installed

    write_atomic(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


@contextmanager
def atomic_directory(out: Path, purpose: str, refuse: Callable[[Path], None]) -> Iterator[Path]:
    """A fresh directory that takes the place of `out` when the block ends well, and vanishes
    otherwise.

    `refuse` raises for an `out` that must not be replaced; it is asked before the block and after.
    """
    place = place_of(out)
    with ExitStack() as stack:
        folder = stack.enter_context(locked_work_folder(place, purpose))
        new, old = folder / _NEW, folder / _OLD
        if old.exists() and not place.exists():
            old.rename(place)  # the writer was killed between the two renames of `_swap`
        refuse(place)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(new, ignore_errors=True)
        if place.exists():
            stack.enter_context(locked_directory(place))
        new.mkdir()
        try:
            yield new
            for path in (*new.rglob("*"), new):
                _sync(path)
            refuse(place)
            _swap(new, place, old)
        finally:
            shutil.rmtree(new, ignore_errors=True)
            if place.exists():
                shutil.rmtree(old, ignore_errors=True)


def _swap(new: Path, place: Path, old: Path) -> None:
    if place.exists():
        place.rename(old)
    try:
        new.rename(place)
    except BaseException:
        if old.exists():
            old.rename(place)
        raise
    _sync(place.parent)


def _open_locked(folder: Path, refusal: str | None) -> int:
    """A handle of the folder, made where it is not there. A link is not followed."""
    while True:
        with suppress(FileExistsError):
            folder.mkdir()
        try:
            handle = os.open(folder, _DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # whoever had it has removed it
        try:
            _lock(handle, refusal)
            if os.path.samestat(os.fstat(handle), folder.lstat()):
                return handle
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # it was removed before it was locked, and may have been made anew


def _lock(handle: int, refusal: str | None) -> None:
    """Raises OutputRefused where another process has it; without a `refusal` waits for that."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
    except BlockingIOError as error:
        raise OutputRefused(refusal) from error


def _mark(folder: Path) -> None:
    """An empty folder is taken: a writer may have been killed before it could mark it."""
    if not os.listdir(folder):
        (folder / MARK).touch(exist_ok=False)
    elif not is_work_folder(folder):
        raise OutputRefused(
            f"{folder} is not a folder of this command, which would work under that name; move it "
            "away, or name another output"
        )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
