"""The folders of a checkpoint: one, or those of a base and of an adapter.

Config and weights are the base's. Other files of the adapter's folder (modules.json with its files,
a tokenizer) take precedence over the base's.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from exporter.adapter import ADAPTER_CONFIG, Adapter, is_adapter, read_adapter
from exporter.embedding_files import transformer_directory
from exporter.errors import CheckpointRefused
from exporter.locating import find_checkpoint, is_folder, refuse_special_files
from exporter.options import ADAPTER_OPTION
from exporter.progress import print_line
from exporter.prompt import TRAINING_FILE
from exporter.sentence_files import MODULES_FILE
from exporter.unread_settings import log_unknown, refuse_unread_files
from exporter.weights import INDEX_FILE, WEIGHTS_FILE
from runtime.activation import CONFIG_FILE

# Files that mark a folder as a base, even if their kind is refused.
_WEIGHTS = (WEIGHTS_FILE, INDEX_FILE, "model-*-of-*.safetensors", "pytorch_model*.bin")
_TOKENIZER = """
    tokenizer* vocab.* merges.txt sentencepiece.bpe.model spm.model chat_template*
    special_tokens_map.json added_tokens.json
""".split()
_VOCABULARY = ("tokenizer.json", "vocab.*", "*.model")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Folders:
    """The folders of a checkpoint's files.

    `root` has sentence-transformers' files and training.json, `base` config.json and weights,
    `texts` the tokenizer; `adapter` is what is merged into the weights.
    """

    root: Path
    base: Path
    texts: Path
    adapter: Adapter | None


def find_folders(source: str, adapter: str | None, *, strict: bool) -> Folders:
    """The folders of the checkpoint `source` with the `adapter`, each a directory or a hub id.

    A `source` that is an adapter alone names its base itself; one that has an adapter beside its
    weights is both, as in loaders. An unknown file is logged, or refused if
    `strict`. Raises CheckpointRefused.
    """
    root, directory = _opened(source)
    if adapter is None and not is_adapter(directory):
        refuse_unread_files(root, directory, strict=strict)
        return Folders(root, directory, directory, None)
    own_root, place = (root, directory) if adapter is None else _opened_adapter(adapter)
    own = read_adapter(place, strict=strict)
    if place.samefile(directory) and not _has(directory, _WEIGHTS):
        root, directory = _opened(_base_of(own, source))
    refuse_unread_files(own_root, own.directory, strict=strict, adapter=own.directory)
    if own.directory.samefile(directory):
        return Folders(own_root, own.directory, own.directory, own)
    if is_adapter(directory):
        raise CheckpointRefused(
            f"found {ADAPTER_CONFIG} in the base {directory} as well, wanted one adapter; merge "
            "that one into its base (merge_and_unload), and export the result with the other"
        )
    refuse_unread_files(root, directory, strict=strict)
    if (own.directory / CONFIG_FILE).is_file():
        log_unknown([CONFIG_FILE], f"use of a file in {own.directory}", strict=strict)
    texts = own.directory if _has_tokenizer(own.directory) else directory
    rooted = own_root if (own_root / MODULES_FILE).is_file() else root
    for other in {own_root, root} - {rooted}:
        if (other / TRAINING_FILE).is_file():
            raise CheckpointRefused(
                f"found {TRAINING_FILE} in {other}, but the files that say how texts are read are "
                f"in {rooted}; copy it there, or remove it"
            )
    return Folders(rooted, directory, texts, own)


def _opened(source: str) -> tuple[Path, Path]:
    """The folder of `source`, and the folder in it with weights or adapter."""
    root = find_checkpoint(source)
    refuse_special_files(root)
    directory = transformer_directory(root)
    refuse_special_files(directory)
    return root, directory


def _opened_adapter(source: str) -> tuple[Path, Path]:
    try:
        return _opened(source)
    except CheckpointRefused as error:
        raise CheckpointRefused(f"the adapter {source!r} is refused: {error}") from error


def _has(directory: Path, patterns: tuple[str, ...]) -> bool:
    return any(path.is_file() for pattern in patterns for path in directory.glob(pattern))


def _has_tokenizer(directory: Path) -> bool:
    """Whether the adapter's folder has one of its own. Raises CheckpointRefused for part of one."""
    found = sorted(path.name for pattern in _TOKENIZER for path in directory.glob(pattern))
    if found and not _has(directory, _VOCABULARY):
        raise CheckpointRefused(
            f"found {', '.join(found)} in {directory}, and no vocabulary, wanted a whole tokenizer "
            "beside the adapter, or none: copy the base's tokenizer.json there, or remove them "
            "for the tokenizer of the base"
        )
    return bool(found)


def _base_of(adapter: Adapter, source: str) -> str:
    """The name of the adapter's base, for `find_checkpoint`."""
    advice = f"name it: rerank-export export BASE {ADAPTER_OPTION} {source}"
    if adapter.base is None:
        raise CheckpointRefused(
            f"{ADAPTER_CONFIG} in {adapter.directory} names no base (base_model_name_or_path); "
            f"{advice}"
        )
    # As loaders resolve it, or beside the adapter, if both were moved together.
    for path in (Path(adapter.base), adapter.directory / adapter.base):
        if is_folder(path):
            print_line(f"the adapter in {adapter.directory} is merged into its base {path}")
            return str(path)
    name, commit = adapter.base, adapter.revision
    if commit not in (None, "main"):
        if _COMMIT.fullmatch(commit) is None:
            raise CheckpointRefused(
                f"{ADAPTER_CONFIG} in {adapter.directory} has revision = {commit[:80]!r} of its "
                f"base {name!r}, wanted main or a commit (40 hex digits); download it and {advice}"
            )
        name = f"{name}@{commit}"
    try:
        found = str(find_checkpoint(name))
    except CheckpointRefused as error:
        raise CheckpointRefused(
            f"{ADAPTER_CONFIG} in {adapter.directory} has base_model_name_or_path = "
            f"{adapter.base[:200]!r}, which was not found: {error}; if it is elsewhere, "
            f"{advice}"
        ) from error
    print_line(f"the adapter in {adapter.directory} is merged into its base {name}")
    return found
