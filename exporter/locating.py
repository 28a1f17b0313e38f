"""Locate a checkpoint: a directory, or a hub id that is downloaded first."""

import re
from pathlib import Path

from exporter.errors import CheckpointRefused
from runtime.activation import CONFIG_FILE
from runtime.hub_cache import snapshot_of

# Files that are read in a folder and its modules' folders; `*` matches slashes, too.
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*vocab.txt", "*merges.txt")
# Other formats of the same weights, and weights of earlier steps.
HUB_IGNORED = ("onnx/*", "openvino/*", "original/*", "*checkpoint-*/*", "consolidated*")
# ORG/NAME, or ORG/NAME@COMMIT for one commit.
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([0-9a-f]{40}))?")


def find_checkpoint(source: str) -> Path:
    """The directory of `source`. For a repository in the hub's cache that is its snapshot; a hub id
    without such a directory is downloaded.

    `@` and 40 hex digits after a hub id name one commit; without them the newest is taken.

    Raises CheckpointRefused if there is neither.
    """
    path = Path(source)
    if is_folder(path):
        try:
            return snapshot_of(path)
        except OSError as error:
            raise CheckpointRefused(f"cannot take {source!r}: {error.strerror}") from error
    name, commit = _hub_id(source)
    return _download(source, name, commit)


def refuse_missing(source: str) -> None:
    """Raise CheckpointRefused if `source` is no directory and cannot be a hub id."""
    if not is_folder(Path(source)):
        _hub_id(source)


def _hub_id(source: str) -> tuple[str, str | None]:
    """The repository and the commit that `source` names."""
    named = _HUB_ID.fullmatch(source)
    if source.startswith(".") or named is None:
        raise CheckpointRefused(
            f"found no directory {source!r}, wanted a checkpoint directory with {CONFIG_FILE}, or "
            "a hub id such as nvidia/llama-nemotron-rerank-1b-v2"
        )
    return named[1], named[2]


def is_folder(path: Path) -> bool:
    """Whether `path` is a directory; False for text that cannot be a path."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def refuse_special_files(directory: Path) -> None:
    """Raise CheckpointRefused for a FIFO or a device in `directory`, which would block its reader.

    Links may lead anywhere, as in the hub's cache."""
    for path in directory.glob("*"):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise CheckpointRefused(
                f"found {path.name} in {directory}, which is not a regular file; copy or download "
                "the checkpoint again"
            )


def _download(source: str, name: str, commit: str | None) -> Path:
    import huggingface_hub  # late: only hub ids need it

    try:
        found = huggingface_hub.snapshot_download(
            name,
            revision=commit,
            allow_patterns=list(HUB_FILES),
            ignore_patterns=list(HUB_IGNORED),
        )
    except Exception as error:  # the hub's client raises many unrelated classes
        raise CheckpointRefused(
            f"found no directory {source!r}, and could not download it from the model hub "
            f"({type(error).__name__}); check the spelling and the network, log in with `hf auth "
            "login` if access is gated, or download the checkpoint elsewhere and name its directory"
        ) from error
    return Path(found)
