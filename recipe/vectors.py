"""Unit vectors in files, of which no more is in memory than is asked for."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipe.durable import write_atomic
from recipe.errors import StageFailed
from runtime.postprocess import Floats, unit


def write_vectors(file: Path, vectors: Floats) -> None:
    """Write `vectors` [n, d], divided by their lengths, atomically.

    Raises StageFailed when some hold NaN or infinity.
    """
    made = unit(vectors)
    if broken := np.flatnonzero(~np.isfinite(made).all(axis=1)).tolist():
        raise StageFailed(
            f"found NaN or infinity in {len(broken)} of {len(made)} vectors of the embedder (the "
            f"first: number {broken[0]}), wanted finite numbers; use another precision of it "
            "(mining_target or retrieval_target: cpu-fp32), or another embedder"
        )
    held = io.BytesIO()
    np.save(held, made, allow_pickle=False)
    write_atomic(file, held.getvalue())


def holds_vectors(file: Path, count: int) -> bool:
    """Whether the file holds `count` vectors; not when it is missing or cut off."""
    try:
        return len(_mapped(file)) == count
    except (FileNotFoundError, ValueError, EOFError):
        return False


def _mapped(file: Path) -> Floats:
    vectors: Floats = np.load(file, mmap_mode="r", allow_pickle=False)
    return vectors


@dataclass(frozen=True)
class Vectors:
    """`count` unit vectors, float32, one after the other: `size` in each of the `files`, and the
    rest in the last one.

    Files are mapped while they are read, so that this may be sent to other processes.
    """

    files: Sequence[Path]
    size: int
    count: int

    def __len__(self) -> int:
        return self.count

    def read(self, start: int, stop: int) -> Floats:
        """The vectors from `start` to before `stop`, which there must be: float32 [n, d]."""
        first, last = start // self.size, -(-stop // self.size)
        parts = [_mapped(file) for file in self.files[first:last]]
        offset = first * self.size
        return np.concatenate(parts)[start - offset : stop - offset]

    def take(self, places: Sequence[int]) -> Floats:
        """The vectors at `places`, in that order: float32 [n, d]."""
        return np.stack([_mapped(self.files[p // self.size])[p % self.size] for p in places])
