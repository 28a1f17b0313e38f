"""A directory that appears whole or not at all.

Work happens in the sibling `.NAME.partial-PID`, which is renamed into place at the end. An export
that is interrupted in any way leaves at most such a sibling; the next one clears it away.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporter.errors import OutputRefused, ParityFailed
from runtime.manifest import MANIFEST_FILE, PARITY_FILE


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """A fresh directory that replaces `out` when the block ends well, and vanishes otherwise.

    After ParityFailed its parity.json is kept beside `out`, at the error's `report`. Raises
    OutputRefused when `out` holds anything that no export wrote.
    """
    out = Path(os.path.abspath(out))
    refuse_foreign(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(out)
    partial = _sibling(out, "partial", os.getpid())
    partial.mkdir()
    try:
        yield partial
        _publish(partial, out)
    except ParityFailed as error:
        error.report = out.with_name(f"{out.name}.failed-parity.json")
        (partial / PARITY_FILE).replace(error.report)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_foreign(out: Path) -> None:
    """Raise OutputRefused unless `out` is absent, empty or an artifact."""
    if not out.exists() or (out / MANIFEST_FILE).is_file():
        return
    if not out.is_dir() or any(out.iterdir()):
        raise OutputRefused(
            f"{out} is neither empty nor an artifact (it has no {MANIFEST_FILE}); name another "
            "directory, or remove it yourself"
        )


def _publish(partial: Path, out: Path) -> None:
    for path in (*partial.rglob("*"), partial):
        _sync(path)
    old = _sibling(out, "old", os.getpid())
    if out.exists():
        out.rename(old)
    partial.rename(out)
    _sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _clear_leftovers(out: Path) -> None:
    """Undo what exports of `out` that died left behind; those still running are left alone."""
    leftover = re.compile(rf"\.{re.escape(out.name)}\.(partial|old)-(\d+)")
    for path in list(out.parent.iterdir()):
        found = leftover.fullmatch(path.name)
        if not found or _is_alive(int(found[2])):
            continue
        if found[1] == "old" and not out.exists():
            path.rename(out)  # it died between the two renames of `_publish`
        else:
            shutil.rmtree(path)


def _sibling(out: Path, kind: str, pid: int) -> Path:
    return out.with_name(f".{out.name}.{kind}-{pid}")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
