"""A repository in the Hugging Face hub's cache, named by its own folder instead of a snapshot's.

models--ORG--NAME/refs/main            the commit that main was when it was downloaded
models--ORG--NAME/snapshots/COMMIT/…   the files of a commit, each a link to ../../blobs
"""

import errno
import re
from pathlib import Path

from runtime.model_files import HUB_PREFIX, hub_repository, read_bounded, real_directory

_REF = "refs/main"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MOST_REF_BYTES = 1024
_MOST_NAMED = 5


def snapshot_of(directory: Path) -> Path:
    """The snapshot of main, or the only one, if `directory` is such a repository; else `directory`.

    Raises OSError, whose strerror says what was found, if none can be chosen.
    """
    real = real_directory(directory)
    repository = real.parent if real.name == "snapshots" else real
    snapshots = repository / "snapshots"
    if not (repository.name.startswith(HUB_PREFIX) and snapshots.is_dir()):
        return directory
    found = sorted(path.name for path in snapshots.iterdir() if path.is_dir())
    names = ", ".join(found[:_MOST_NAMED]) + (" …" if len(found) > _MOST_NAMED else "")
    wanted = _main(repository)
    if wanted in found or (wanted is None and len(found) == 1):
        return snapshots / (wanted or found[0])
    if not found:
        message = "it is a repository of the hub's cache without a snapshot; download it again"
    elif wanted is None:
        message = f"its snapshots are {names}, and no {_REF} says which to take; name one of them"
    else:
        message = f"its {_REF} names {wanted}, its snapshots are {names}; name one of them"
    raise OSError(errno.ENOENT, message)


def hub_name(directory: Path) -> str | None:
    """ORG/NAME of the repository whose snapshot, or a folder of it, `directory` is; else None."""
    found = hub_repository(directory)
    return None if found is None else found.name.removeprefix(HUB_PREFIX).replace("--", "/")


def _main(repository: Path) -> str | None:
    """The commit in refs/main; None if there is no such file, or it has other content."""
    try:
        text = read_bounded(repository / _REF, _MOST_REF_BYTES).decode("ascii", "replace").strip()
    except OSError:
        return None
    return text if _COMMIT.fullmatch(text) else None
