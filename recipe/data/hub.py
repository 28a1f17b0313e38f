"""Data sets of the Hugging Face hub: files only, at a pinned revision; no script of them is run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from recipe.data.columns import split_of
from recipe.data.files import SUFFIXES, suffix
from recipe.errors import BadInput
from recipe.hub import HF, dataset_parts, fetch_dataset
from recipe.progress import Log

CARD = "README.md"
_PATTERNS = [f"**{one}{packed}" for one in SUFFIXES for packed in ("", ".gz")]


@dataclass(frozen=True)
class HubFiles:
    """Files to read, below `root`; `corpus` are those of a subset with the passages.

    `named`: a subset, so that they are not all there is. `splits` are those that the card gives to
    files.
    """

    files: Sequence[Path]
    root: Path
    corpus: Sequence[Path] = ()
    named: bool = False
    splits: Mapping[Path, str] = field(default_factory=dict)


def hub_files(given: str, log: Log) -> HubFiles | None:
    """The files of `hf://ORG/NAME@REVISION/SUBSET`, or of FOLDER/SUBSET for a local copy.

    SUBSET is one that the card names (README.md), or a folder. None for any other path. Raises
    BadInput.
    """
    if given.startswith(HF):
        _, _, subset = dataset_parts(given)
        root = fetch_dataset(given, [CARD, *_PATTERNS], log)
    else:
        root, subset = Path(given).parent, Path(given).name
    subsets = _subsets(root)
    if subset in subsets:
        return HubFiles(
            list(subsets[subset]),
            root,
            list(subsets.get(f"{subset}_corpus", ())),
            named=True,
            splits={file: split for file, split in subsets[subset].items() if split},
        )
    if not given.startswith(HF):
        return None
    if not subset:
        return HubFiles(_data_files(root, root), root)
    folder = root / subset
    if not folder.is_dir():
        raise BadInput(
            f"found no subset or folder {subset!r} in {given}; it has "
            f"{', '.join(sorted(subsets)) or 'no subsets'}"
        )
    beside = root / f"{subset}_corpus"
    return HubFiles(_data_files(folder, folder), folder, _data_files(beside, beside), named=False)


def _data_files(folder: Path, root: Path) -> list[Path]:
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and suffix(file) in SUFFIXES
        and not file.name.endswith("metadata.json")
        and not any(part.startswith(".") for part in file.relative_to(root).parts)
    ]


def _subsets(root: Path) -> dict[str, dict[Path, str | None]]:
    """The subsets that the card names (its `configs`): the files of each, and their splits."""
    card = root / CARD
    text = card.read_text(encoding="utf-8-sig", errors="replace") if card.is_file() else ""
    if not text.startswith("---"):
        return {}
    try:
        head = yaml.safe_load(text.split("---", 2)[1])
    except yaml.YAMLError:
        return {}
    configs = head.get("configs") if isinstance(head, dict) else None
    found = {}
    for one in configs if isinstance(configs, list) else []:
        if isinstance(one, dict) and "config_name" in one:
            patterns = _patterns(one.get("data_files"))
            files = _data_files(root, root)
            found[str(one["config_name"])] = {
                file: split
                for file in files
                for pattern, split in reversed(patterns)  # the first one counts
                if fnmatchcase(file.relative_to(root).as_posix(), pattern)
            }
    return found


def _patterns(data_files: Any, split: str | None = None) -> list[tuple[str, str | None]]:
    """The patterns of a card's `data_files` with their splits.

    These are a text, a list of them, splits as keys, or a list of `split` and `path`.
    """
    if isinstance(data_files, str):
        return [(data_files, split)]
    if isinstance(data_files, list):
        return [pattern for one in data_files for pattern in _patterns(one, split)]
    if not isinstance(data_files, dict):
        return []
    if "path" in data_files:
        return _patterns(data_files["path"], split_of(str(data_files.get("split", ""))))
    return [
        found for key, one in data_files.items() for found in _patterns(one, split_of(str(key)))
    ]
