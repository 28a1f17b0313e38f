"""What a run left: the folder of each stage, and what its marks say."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.config import STAGE_NAMES
from recipe.errors import BadInput, OutputRefused
from recipe.stage import DONE_FILE, STARTED_FILE, Provenance, read_mark


@dataclass(frozen=True)
class StageRun:
    """One stage: its folder, and the newer of its marks."""

    home: Path
    mark: Provenance

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that it was run with."""
        return self.mark.settings


Run = Mapping[str, StageRun]


def stages_in(folder: Path) -> Run:
    """The stages whose folders lie in `folder`, the newest of each. Raises BadInput for none."""
    found: dict[str, StageRun] = {}
    if folder.is_dir():
        for home in sorted(path for path in folder.iterdir() if path.is_dir()):
            one = _stage_at(home)
            before = found.get(one.mark.stage) if one else None
            if one and (before is None or before.mark.started_at < one.mark.started_at):
                found[one.mark.stage] = one
    if not found:
        raise BadInput(
            f"found no folder of a stage in {folder}, wanted the folder of a run, such as "
            "output/rerank; `rerank info` shows where the stages write"
        )
    return {name: found[name] for name in STAGE_NAMES if name in found}


def stages_of(homes: Mapping[str, Path]) -> Run:
    """The stages in these folders, by their names, as far as they were begun there."""
    found = {name: _stage_at(home) for name, home in homes.items()}
    return {name: one for name, one in found.items() if one and one.mark.stage == name}


def _stage_at(home: Path) -> StageRun | None:
    for name in (STARTED_FILE, DONE_FILE):
        with suppress(OutputRefused):
            if (mark := read_mark(home / name)) is not None and mark.stage in STAGE_NAMES:
                return StageRun(home, mark)
    return None
