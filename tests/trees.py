"""What lies in a folder, to be compared with what lay there before."""

import os
from pathlib import Path


def tree(folder: Path) -> dict[str, bytes | str | None]:
    """By relative path: the content of a file, where a link leads, None for a folder."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = None
        else:
            found[name] = path.read_bytes() if path.is_file() else "special"
    return found
