"""What stands behind a name on the model hub: a repository's name moves on, a commit does not."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

# In place of a commit: neither the hub nor its cache on this machine could be asked.
UNKNOWN = "unknown: the hub was not reached"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PINNED = re.compile(r"(.+)@([0-9a-f]{40})")


def is_commit(revision: str) -> bool:
    """Whether `revision` names one state for ever; a branch or tag does not."""
    return bool(_COMMIT.fullmatch(revision))


def commit_of(repo: str, kind: Literal["model", "dataset"], revision: str = "main") -> str:
    """The commit that `revision` is now, as the hub says, or else the cache; or UNKNOWN."""
    if is_commit(revision):
        return revision
    from huggingface_hub import snapshot_download  # only names on the hub need it

    try:
        # Without a file to fetch this only asks; the folder is named by the commit.
        folder = snapshot_download(repo, repo_type=kind, revision=revision, allow_patterns=[])
    except Exception:  # the hub's client raises many unrelated classes
        return UNKNOWN
    return Path(folder).name


def model_commit(model: str) -> dict[str, str]:
    """The model's commit by its name, for the provenance of a stage; a directory has none."""
    if Path(model).is_dir() or model.startswith((".", "/")):
        return {}
    name, commit = unpinned(model)
    return {model: commit or commit_of(name, "model")}


def pinned(model: str, commits: Mapping[str, str]) -> str:
    """`model` as NAME@COMMIT, which the exporter loads, when `commits` hold its commit."""
    commit = commits.get(model, "")
    return f"{unpinned(model)[0]}@{commit}" if is_commit(commit) else model


def unpinned(model: str) -> tuple[str, str | None]:
    """Name and commit of NAME@COMMIT; any other `model` and None."""
    found = _PINNED.fullmatch(model)
    return (found[1], found[2]) if found else (model, None)
