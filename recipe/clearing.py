"""Beginning anew: what a stage made goes, and what somebody else made gets another name."""

import os
import shutil
from collections.abc import Collection, Mapping
from itertools import count
from pathlib import Path

from recipe.progress import Say
from runtime.outputs import place_of


def clear(outputs: Mapping[Path, str], made: Collection[str], say: Say) -> None:
    """Make room at each path of `outputs`; those whose names are among `made` are removed."""
    for path, name in outputs.items():
        if name in made:
            _remove(path)
        elif path.exists():
            names = (path.with_name(f"{path.name}.before-{number}") for number in count(1))
            free = next(one for one in names if not os.path.lexists(one))
            path.rename(free)
            say(f"{path} was not made by this stage; it is {free.name} now")


def _remove(path: Path) -> None:
    """A link stays, for people made it; what it leads to goes."""
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
