"""The hub: the commit of a repository (branches move, a commit does not), and its data sets."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from recipe.errors import BadConfig, BadInput
from recipe.progress import Log

HF = "hf://"
_DATASET = re.compile(r"hf://(?P<dataset>[^/@]+/[^/@]+)@(?P<revision>[^/]+)(?:/(?P<folder>.+))?")
# Instead of a commit, when neither the hub nor its local cache could be reached.
UNKNOWN = "unknown: the hub was not reached"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PINNED = re.compile(r"(.+)@([0-9a-f]{40})")


def is_commit(revision: str) -> bool:
    """Whether `revision` is a commit, which never changes; branches and tags may."""
    return bool(_COMMIT.fullmatch(revision))


def commit_of(repo: str, kind: Literal["model", "dataset"], revision: str = "main") -> str:
    """The current commit of `revision`, from the hub, else from the cache, else UNKNOWN."""
    if is_commit(revision):
        return revision
    from huggingface_hub import snapshot_download  # only names on the hub need it

    try:
        # No file matches, so this only resolves the revision; the folder is named by the commit.
        folder = snapshot_download(repo, repo_type=kind, revision=revision, allow_patterns=[])
    except Exception:  # the hub's client raises many unrelated classes
        return UNKNOWN
    return Path(folder).name


def model_commit(model: str) -> dict[str, str]:
    """The model's commit by its name, for the provenance of a stage; empty for a directory."""
    if Path(model).is_dir() or model.startswith((".", "/")):
        return {}
    name, commit = unpinned(model)
    return {model: commit or commit_of(name, "model")}


def pinned(model: str, commits: Mapping[str, str]) -> str:
    """`model` as NAME@COMMIT, which the exporter loads, when `commits` has its commit."""
    commit = commits.get(model, "")
    return f"{unpinned(model)[0]}@{commit}" if is_commit(commit) else model


def pin_models(*keys: str) -> Callable[[Any, Mapping[str, str]], Any]:
    """A stage's `pin` for settings that name a model in each of `keys`."""
    return lambda settings, commits: msgspec.structs.replace(
        settings, **{key: pinned(getattr(settings, key), commits) for key in keys}
    )


def unpinned(model: str) -> tuple[str, str | None]:
    """Name and commit of NAME@COMMIT; (`model`, None) for any other."""
    found = _PINNED.fullmatch(model)
    return (found[1], found[2]) if found else (model, None)


def dataset_parts(source: str) -> tuple[str, str, str]:
    """Name, revision and folder of hf://ORG/DATASET@REVISION/FOLDER. Raises BadConfig."""
    found = _DATASET.fullmatch(source)
    if not found:
        raise BadConfig(
            f"found {source}, wanted hf://ORG/DATASET@REVISION/FOLDER; the revision pins the data: "
            "use a commit, because branches move"
        )
    return found["dataset"], found["revision"], (found["folder"] or "").strip("/")


def dataset_commit(source: str) -> dict[str, str]:
    """The commit of a data set, by `source`; empty for a local path."""
    if not source.startswith(HF):
        return {}
    dataset, revision, _ = dataset_parts(source)
    return {source: commit_of(dataset, "dataset", revision)}


def pinned_dataset(source: str, commits: Mapping[str, str]) -> str:
    """`source` with its revision replaced by its commit in `commits`."""
    commit = commits.get(source, "")
    if not is_commit(commit):
        return source
    dataset, _, folder = dataset_parts(source)
    return f"{HF}{dataset}@{commit}" + (f"/{folder}" if folder else "")


def fetch_dataset(source: str, patterns: list[str] | None, log: Log) -> Path:
    """The local folder of the data set `source`; only files that match. Raises BadInput."""
    dataset, revision, _ = dataset_parts(source)
    from huggingface_hub import snapshot_download  # only this way needs it

    log(f"fetch {source}")
    try:
        root = snapshot_download(
            dataset, repo_type="dataset", revision=revision, allow_patterns=patterns
        )
    except Exception as error:  # the hub's client raises many unrelated classes
        raise BadInput(
            f"could not download {source} ({type(error).__name__}); check the spelling and the "
            "network, log in with `hf auth login` if access is gated, or download it elsewhere and "
            "name its directory"
        ) from error
    return Path(root)


def refuse_hub(key: str, given: str | None) -> None:
    """Raise BadConfig for a data set of the hub where a local path is wanted."""
    if given is not None and given.startswith(HF):
        raise BadConfig(
            f"found {key} = {given}, wanted a local path; `rerank prep data={given}` reads it and "
            "writes what finetune and eval read"
        )
