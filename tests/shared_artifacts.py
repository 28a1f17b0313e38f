"""Folders that the tests of all workers share: each is made once a session."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from exporter.pipeline import ExportArgs, export

# One worker waits for another's export. Only a hang reaches this.
_PATIENCE_S = 1800


def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all workers of this session have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """`folder` as `make` leaves it. Who asks first makes it, other workers wait.

    Read-only by agreement: copy it before you change a file. A failed `make` raises for its
    caller, and the next one to ask tries again in the same folder.
    """
    done = folder.with_name(f"{folder.name}.done")
    with FileLock(folder.with_name(f"{folder.name}.lock"), timeout=_PATIENCE_S):
        if not done.exists():
            make(folder)
            done.touch()
    return folder


def exported_once(shared: Path, checkpoint: Path, args: ExportArgs) -> Path:
    """The artifact that `export` makes of `checkpoint` and `args`, below the folder `shared`."""
    name = f"{checkpoint.name}-{args.target}-{_digest(checkpoint, args)}"
    return made_once(shared / name, lambda out: export(str(checkpoint), out, args))


def _digest(checkpoint: Path, args: ExportArgs) -> str:
    """Of the name and content of every file of the checkpoint, and of the arguments."""
    sha = hashlib.sha256(repr(args).encode())
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        sha.update(str(path.relative_to(checkpoint)).encode())
        sha.update(path.read_bytes())
    return sha.hexdigest()[:16]
