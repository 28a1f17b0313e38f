"""A directory that appears whole or not at all.

Work happens in a hidden sibling, which is renamed into place at the end. An export that is
interrupted in any way leaves at most such a sibling; the next one clears it away. Whoever works
in one holds a lock on it, which the kernel drops when that process ends, however it ends.
"""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from exporter.errors import OutputRefused, ParityFailed
from runtime.errors import ManifestError
from runtime.manifest import MANIFEST_FILE, PARITY_FILE, read_manifest
from runtime.tuning import TUNING_FILE


def link_or_copy(source: Path | str, place: Path | str) -> None:
    """Put the file `source` at `place`: linked where that can be done, for it may be large.

    A symbolic link is followed: it may lead elsewhere from `place`.
    """
    try:
        os.link(os.path.realpath(source), place)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, place)


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """A fresh directory that replaces `out` when the block ends well, and vanishes otherwise.

    After ParityFailed its parity.json is kept beside `out`, at the error's `report`. Raises
    OutputRefused when `out` holds anything that no export wrote. A link is followed: what it
    leads to is replaced.
    """
    refuse_foreign(out)
    out = out.resolve()
    report = out.with_name(f"{out.name}.failed-parity.json")
    key = secrets.token_hex(4)
    partial = _sibling(out, "partial", key)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(out)
        partial.mkdir()
    except OSError as error:
        raise OutputRefused(
            f"cannot write beside {out}: {error.strerror}; make {out.parent} writable, or choose "
            "another --out"
        ) from error
    lock = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield partial
        _publish(partial, out, _sibling(out, "old", key))
        report.unlink(missing_ok=True)
    except ParityFailed as error:
        error.report = report
        (partial / PARITY_FILE).replace(report)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def refuse_foreign(out: Path) -> None:
    """Raise OutputRefused unless `out` is absent, empty, or an artifact and nothing more."""
    out = out.resolve()
    if not out.exists():
        return
    if not out.is_dir() or out.is_mount():
        kind = "a mount point" if out.is_mount() else "no directory"
        raise OutputRefused(f"{out} is {kind} and cannot be replaced; name a directory inside one")
    if any(out.iterdir()) and (foreign := _foreign_file(out)):
        raise OutputRefused(
            f"{out} holds {foreign}, which no export wrote; name another directory, or move it "
            "away yourself"
        )


def _foreign_file(out: Path) -> str | None:
    """The first file in `out` that its manifest does not know."""
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if not p.is_dir())
    try:
        known = {MANIFEST_FILE, TUNING_FILE, *read_manifest(out).files}
    except ManifestError:
        known = set()
    return next((name for name in files if name not in known), None)


def _publish(partial: Path, out: Path, old: Path) -> None:
    for path in (*partial.rglob("*"), partial):
        _sync(path)
    if out.exists():
        out.rename(old)
    try:
        partial.rename(out)
    except BaseException:
        if old.exists():
            old.rename(out)
        raise
    _sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _clear_leftovers(out: Path) -> None:
    """Undo what exports of `out` that died left behind; those still running are left alone."""
    leftover = re.compile(rf"\.{re.escape(out.name)}\.(partial|old)-([0-9a-f]+)")
    for path in list(out.parent.iterdir()):
        found = leftover.fullmatch(path.name)
        if not found or _is_held(_sibling(out, "partial", found[2])):
            continue
        if found[1] == "old" and not out.exists():
            path.rename(out)  # it died between the two renames of `_publish`
        else:
            shutil.rmtree(path)


def _sibling(out: Path, kind: str, key: str) -> Path:
    return out.with_name(f".{out.name}.{kind}-{key}")


def _is_held(partial: Path) -> bool:
    """Whether a living process works in `partial`."""
    with suppress(FileNotFoundError):
        handle = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
    return False


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
