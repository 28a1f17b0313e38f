"""Outputs of commands: one writer at a time, atomic, and never over an input.

While an output NAME is written, the work folder `.NAME.PURPOSE` beside it holds the unfinished
files. Its writer holds a lock on it (flock), which the kernel drops when the process ends. The lock
works between processes of one machine; a network file system may not pass it on. An empty file MARK
marks the folder as ours. A folder of that name without the mark is somebody else's: it is refused
and left alone. Links are resolved first, so that all spellings of an output share one work folder.
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
    """The real path of `out`, whether it exists or not. Raises OutputRefused for a circle of
    links."""
    place = Path(os.path.realpath(out))
    if place.is_symlink():
        raise OutputRefused(f"{out} is a link that leads to itself; remove it, or name another")
    return place


def file_place(out: Path) -> Path:
    """`place_of` for a file. Raises OutputRefused if something else is there."""
    if out.exists() and not out.is_file():
        kind = "a directory" if out.is_dir() else "no regular file"
        raise OutputRefused(f"{out} is {kind} and is not replaced; name a file")
    return place_of(out)


def refuse_inputs(out: Path, *inputs: Path) -> None:
    """Raise OutputRefused if `out` is one of the `inputs` under any name, or one lies in the other:
    writing or removing `out` would change an input."""
    place = place_of(out)
    for given in inputs:
        found = Path(os.path.realpath(given))
        if _lies_in(place, found) or _lies_in(found, place):
            same = _is_same(place, found)
            how = "is the input itself" if same else f"and the input {given} lie in one another"
            raise OutputRefused(f"{out} {how}; name another output")


def _lies_in(inner: Path, outer: Path) -> bool:
    """Compare by path and by identity: one file may have several names."""
    return inner.is_relative_to(outer) or any(
        _is_same(one, outer) for one in (inner, *inner.parents)
    )


def _is_same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return one == other or os.path.samefile(one, other)
    return False


@contextmanager
def locked_directory(directory: Path, refusal: str | None = None) -> Iterator[None]:
    """Lock the directory for this process until the block ends. Raises OutputRefused with the
    message `refusal` if another process holds the lock."""
    handle = os.open(directory, _DIRECTORY)
    try:
        _lock(handle, refusal or f"another command works in {directory}; wait until it has ended")
        yield
    finally:
        os.close(handle)


def work_folder(out: Path, purpose: str) -> Path:
    """The path of the folder of `locked_work_folder`, whether it exists or not."""
    place = place_of(out)
    return place.with_name(f".{place.name}.{purpose}")


@contextmanager
def locked_work_folder(out: Path, purpose: str, *, wait: bool = False) -> Iterator[Path]:
    """Create and lock the work folder `.NAME.PURPOSE` beside `out`. It may hold files that a killed
    process left.

    When the block ends, the folder is removed if it is empty. If another process holds the lock,
    raises OutputRefused or, with `wait`, waits. Raises OutputRefused if the folder is somebody
    else's or cannot be made.
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

    The mark must be an empty regular file; anything else is somebody else's.
    """
    try:
        found = (folder / MARK).lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == 0


def foreign_file(directory: Path, known: Collection[str]) -> str | None:
    """The first file in `directory`, at any depth, whose relative path is not among the `known`.

    Files in work folders, which killed processes left, are ignored.
    """
    found = (path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())
    names = (p.relative_to(directory).as_posix() for p in found if not is_work_folder(p.parent))
    return min((name for name in names if name not in known), default=None)


@contextmanager
def exit_on_refusal() -> Iterator[None]:
    """Exit with the message of OutputRefused instead of a traceback, in commands without other
    errors of their own."""
    try:
        yield
    except OutputRefused as error:
        sys.exit(str(error))


@contextmanager
def atomic_file(folder: Path, place: Path) -> Iterator[BinaryIO]:
    """Write `place` atomically: a file in the work folder `folder` replaces it once it is synced,
    and is removed if the block fails."""
    new = folder / _NEW
    try:
        with new.open("wb") as file:
            with suppress(FileNotFoundError):
                # Keep the mode of the file that is replaced; it may be private.
                os.fchmod(file.fileno(), stat.S_IMODE(place.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.replace(place)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    _sync(place.parent)


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically and durably; concurrent writers wait for each other.

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
    """Write the directory `out` atomically: a new directory replaces it if the block succeeds, and
    is removed otherwise.

    `refuse` raises for an `out` that must not be replaced. It is called before the block and after.
    """
    place = place_of(out)
    with ExitStack() as stack:
        folder = stack.enter_context(locked_work_folder(place, purpose))
        new, old = folder / _NEW, folder / _OLD
        if old.exists() and not place.exists():
            old.rename(place)  # an earlier writer was killed between the two renames of `_swap`
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
    """Create the folder if needed, open and lock it, and return the handle. A link is refused."""
    while True:
        with suppress(FileExistsError):
            folder.mkdir()
        try:
            handle = os.open(folder, _DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # the last writer has removed it
        try:
            _lock(handle, refusal)
            if os.path.samestat(os.fstat(handle), folder.lstat()):
                return handle
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the folder was removed before the lock was taken: try again


def _lock(handle: int, refusal: str | None) -> None:
    """Lock the handle. If another process holds the lock, raise OutputRefused, or wait without a
    `refusal`."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
    except BlockingIOError as error:
        raise OutputRefused(refusal) from error


def _mark(folder: Path) -> None:
    """Mark the folder as ours. An empty folder is taken over: a writer may have been killed before
    it marked it. Raises OutputRefused."""
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
