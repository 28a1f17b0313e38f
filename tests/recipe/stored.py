"""Vectors in files, as the first stage keeps them."""

from pathlib import Path

from recipe.vectors import Vectors, write_vectors
from runtime.postprocess import Floats


def stored(folder: Path, vectors: Floats, size: int = 3) -> Vectors:
    """`vectors` [n, d] as unit vectors in files of `size` each, in a folder of their own."""
    place = folder / f"vectors-{len(list(folder.glob('vectors-*')))}"
    starts = range(0, len(vectors), size)
    files = [place / f"{start}.npy" for start in starts]
    for start, file in zip(starts, files, strict=True):
        place.mkdir(exist_ok=True)
        write_vectors(file, vectors[start : start + size])
    return Vectors(files, size, len(vectors))
