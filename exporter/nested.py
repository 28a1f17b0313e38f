"""Find checkpoints below a folder that is not one itself: trainers save one for each step.

transformers writes checkpoint-500/, NeMo AutoModel epoch_0_step_10/model/consolidated/ and a link
LATEST. The newest has the highest numbers: file dates change with a copy.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from runtime.activation import CONFIG_FILE

# Files that mark a folder as a checkpoint, even of a refused kind.
_SIGNS = (CONFIG_FILE, "modules.json", "adapter_config.json")
_DEEPEST = 4
# The folder may hold other data, so the search is limited.
_MOST_FOLDERS = 2000
_MOST_NAMED = 5


def nested_checkpoints(directory: Path) -> str | None:
    """Advice with the checkpoints below `directory`, newest first; None if there are none."""
    home = directory.resolve()
    found: dict[Path, tuple[list[int], str]] = {}
    for place in _folders(directory):
        real = place.resolve()
        # A link such as LATEST is a second name of a numbered checkpoint.
        if _is_checkpoint(place) and real.is_relative_to(home):
            named = real.relative_to(home)
            numbers = [int(number) for number in re.findall(r"\d{1,18}", str(named))]
            found[real] = (numbers, str(directory / named))
    ranked = sorted(found.values(), reverse=True)
    places = [place for _, place in ranked]
    if not places:
        return None
    if len(places) == 1:
        return f"a checkpoint is in {places[0]}: export that"
    if not ranked[0][0]:
        more = " …" if len(places) > _MOST_NAMED else ""
        return f"checkpoints are in {', '.join(sorted(places)[:_MOST_NAMED])}{more}: export one"
    return f"{len(places)} checkpoints are below it, the newest in {places[0]}: export that"


def _folders(directory: Path) -> Iterator[Path]:
    """The folders below `directory`, nearest first, without those inside a checkpoint."""
    level, seen = [directory], 0
    for _ in range(_DEEPEST):
        inner = [place for folder in level for place in _inside(folder)]
        for place in inner:
            seen += 1
            if seen > _MOST_FOLDERS:
                return
            yield place
        level = [place for place in inner if not _is_checkpoint(place)]


def _is_checkpoint(place: Path) -> bool:
    return any((place / sign).is_file() for sign in _SIGNS)


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:  # not readable for this user
        return []
