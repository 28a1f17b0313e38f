"""Directories as huggingface_hub keeps them: every file is a link to a blob."""

from pathlib import Path

from runtime.manifest import hash_file


def as_snapshot(directory: Path, cache: Path) -> Path:
    """Move the files of `directory` into a hub's `cache`; its snapshot."""
    repository = cache / "models--org--name"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / ("c0ffee" * 7)[:40]
    blobs.mkdir(parents=True, exist_ok=True)
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        place = snapshot / file.relative_to(directory)
        place.parent.mkdir(parents=True, exist_ok=True)
        blob = blobs / hash_file(file).removeprefix("sha256:")
        file.rename(blob)
        up = [".."] * (len(place.relative_to(repository).parts) - 1)
        place.symlink_to(Path(*up, "blobs", blob.name))
    return snapshot
