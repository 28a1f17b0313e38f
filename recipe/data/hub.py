"""Data sets of the Hugging Face hub: files only, at a pinned revision; no script of them is run."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from recipe.data.files import SUFFIXES, suffix
from recipe.errors import BadInput
from recipe.hub import HF, dataset_parts, fetch_dataset
from recipe.progress import Log

_CARD = "README.md"
_PATTERNS = [f"**{one}{packed}" for one in SUFFIXES for packed in ("", ".gz")]


@dataclass(frozen=True)
class HubFiles:
    """Files to read, below `root`; `corpus` are those of a subset with the passages.

    `named`: a subset, so that they are not all there is.
    """

    files: Sequence[Path]
    root: Path
    corpus: Sequence[Path] = ()
    named: bool = False


def hub_files(given: str, log: Log) -> HubFiles | None:
    """The files of `hf://ORG/NAME@REVISION/SUBSET`, or of FOLDER/SUBSET for a local copy.

    SUBSET is one that the card names (README.md), or a folder. None for any other path. Raises
    BadInput.
    """
    if given.startswith(HF):
        _, _, subset = dataset_parts(given)
        root = fetch_dataset(given, [_CARD, *_PATTERNS], log)
    else:
        root, subset = Path(given).parent, Path(given).name
    subsets = _subsets(root)
    if subset in subsets:
        return HubFiles(subsets[subset], root, subsets.get(f"{subset}_corpus", ()), named=True)
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


def _subsets(root: Path) -> dict[str, list[Path]]:
    """The subsets that the card names (its `configs`), each with its files."""
    card = root / _CARD
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
            found[str(one["config_name"])] = [
                file
                for file in files
                if any(fnmatchcase(file.relative_to(root).as_posix(), p) for p in patterns)
            ]
    return found


def _patterns(data_files: Any) -> list[str]:
    """The patterns of a card's `data_files`: a text, a list of them, or splits with `path`."""
    if isinstance(data_files, str):
        return [data_files]
    if isinstance(data_files, dict):
        data_files = data_files.get("path", list(data_files.values()))
    if isinstance(data_files, list):
        return [pattern for one in data_files for pattern in _patterns(one)]
    return [data_files] if isinstance(data_files, str) else []
