"""A directory that is replaced atomically.

Work happens in a folder beside it (`runtime/outputs.py`), and is renamed into place at the end. An
export that is interrupted in any way leaves at most that folder; the next export removes it.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from exporter.errors import OutputRefused, ParityFailed
from exporter.progress import print_line
from exporter.report import Parity
from runtime.errors import ManifestError
from runtime.manifest import MANIFEST_FILE, PARITY_FILE, read_manifest
from runtime.outputs import atomic_directory, foreign_file, place_of
from runtime.tuning import TUNING_FILE


def link_or_copy(source: Path | str, place: Path | str) -> None:
    """Link the file `source` to `place`, or copy it if links are not possible.

    A symbolic link is followed, as its target may be relative.
    """
    try:
        os.link(os.path.realpath(source), place)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, place)


def link_files(source: Path, place: Path, names: Iterable[str]) -> None:
    """Link or copy the files of these `names` in `source` to the same names in `place`."""
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(source / name, place / name)


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """A fresh directory that replaces `out` if the block succeeds, and is removed otherwise.

    After ParityFailed its parity.json is kept beside `out`, at the error's `report`. Raises
    OutputRefused if `out` has files that no export wrote, or another command writes it. A link
    is followed: its target is replaced.
    """
    place = place_of(out)
    with atomic_directory(out, "rerank-export", refuse_foreign) as partial:
        try:
            yield partial
        except ParityFailed as error:
            error.report = _free_report(place)
            (partial / PARITY_FILE).replace(error.report)
            raise
    if _is_report(report := next(_reports(place))):
        report.unlink()


def refuse_foreign(out: Path) -> None:
    """Raise OutputRefused unless `out` is absent, empty, or an artifact without other files."""
    out = place_of(out)
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


def announce_replacement(out: Path) -> None:
    """Log which artifact in `out` a success will replace."""
    with suppress(ManifestError):
        found = read_manifest(place_of(out))
        print_line(f"{out} holds artifact {found.version}, which a proven new one replaces")


def _foreign_file(out: Path) -> str | None:
    """The first file in `out` that is not in its manifest."""
    try:
        known = {MANIFEST_FILE, TUNING_FILE, *read_manifest(out).files}
    except ManifestError:
        known = set()
    return foreign_file(out, known)


def _free_report(out: Path) -> Path:
    """The path for the report of a failure: an older report, or an unused name."""
    return next(one for one in _reports(out) if not os.path.lexists(one) or _is_report(one))


def _reports(out: Path) -> Iterator[Path]:
    yield out.with_name(f"{out.name}.failed-parity.json")
    for number in count(2):
        yield out.with_name(f"{out.name}.failed-parity-{number}.json")


def _is_report(path: Path) -> bool:
    """Whether it is the report of a failed export, and not another file of that name."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    fields = msgspec.structs.fields(Parity)
    named = {field.encode_name for field in fields}
    return {field.encode_name for field in fields if field.required} <= found.keys() <= named
