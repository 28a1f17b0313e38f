"""Where a checkpoint lies: a directory, or a hub id that is downloaded first."""

import re
from pathlib import Path

from exporter.errors import CheckpointRefused
from runtime.activation import CONFIG_FILE
from runtime.hub_cache import snapshot_of

# What is read of a folder and of its modules' folders: a star stands for slashes, too.
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*vocab.txt", "*merges.txt")
# The same weights once more, or those of earlier steps.
HUB_IGNORED = ("onnx/*", "openvino/*", "original/*", "*checkpoint-*/*", "consolidated*")
# ORG/NAME, or ORG/NAME@COMMIT for what that name stood for once.
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([0-9a-f]{40}))?")


def find_checkpoint(source: str) -> Path:
    """The directory of `source`, of a repository in the hub's cache the snapshot; a hub id that is
    no directory here is downloaded.

    A hub id ends with `@` and 40 hex digits to name one commit; alone it is what the hub has now.

    Raises CheckpointRefused when there is neither.
    """
    path = Path(source)
    if is_folder(path):
        try:
            return snapshot_of(path)
        except OSError as error:
            raise CheckpointRefused(f"cannot take {source!r}: {error.strerror}") from error
    named = _HUB_ID.fullmatch(source)
    if source.startswith(".") or named is None:
        raise CheckpointRefused(
            f"found no directory {source!r}, wanted a checkpoint directory with {CONFIG_FILE}, or "
            "a hub id such as nvidia/llama-nemotron-rerank-1b-v2"
        )
    return _download(source, named[1], named[2])


def is_folder(path: Path) -> bool:
    """Whether it is one; what cannot be the name of a file is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def refuse_special_files(directory: Path) -> None:
    """Raise CheckpointRefused for one. Links may lead anywhere, as those of the hub's cache do; but
    what reads a FIFO or a device, here or in transformers, does not come back."""
    for path in directory.glob("*"):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise CheckpointRefused(
                f"found {path.name} in {directory}, which is no regular file; copy or download the "
                "checkpoint again"
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
