"""Make room for a stage that starts over: its own output is removed, other files are renamed."""

import os
import shutil
from collections.abc import Collection, Mapping
from itertools import count
from pathlib import Path

from recipe.progress import Log
from runtime.outputs import place_of


def clear(outputs: Mapping[Path, str], made: Collection[str], log: Log) -> None:
    """Clear each path of `outputs`: remove it if its name is in `made`, else rename it."""
    for path, name in outputs.items():
        if name in made:
            _remove(path)
        elif path.exists():
            log(f"{path} was not made by this stage; renamed it to {set_aside(path).name}")


def set_aside(path: Path) -> Path:
    """Rename `path` to the first free name of path.before-1 and so on; returns that."""
    names = (path.with_name(f"{path.name}.before-{number}") for number in count(1))
    free = next(one for one in names if not os.path.lexists(one))
    return path.rename(free)


def _remove(path: Path) -> None:
    """Remove `path`. For a link, remove the target and keep the link, which the user made."""
    if not path.is_dir():
        place_of(path).unlink(missing_ok=True)
    elif not path.is_symlink():
        shutil.rmtree(path)
    else:
        for one in path.iterdir():
            if one.is_dir() and not one.is_symlink():
                shutil.rmtree(one)
            else:
                one.unlink()
