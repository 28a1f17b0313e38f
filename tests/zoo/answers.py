"""The answers of a checkpoint's reader to the zoo's texts, and their comparison."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Row:
    """One pair or text as the model is fed it; `types` are all 0 where it takes none."""

    ids: tuple[int, ...]
    types: tuple[int, ...]


def row(ids: Iterable[int], types: Iterable[int] | None) -> Row:
    """A Row of numbers of any kind."""
    held = tuple(map(int, ids))
    return Row(held, (0,) * len(held) if types is None else tuple(map(int, types)))


@dataclass(frozen=True)
class Answers:
    """`numbers` float64: logits [n] or vectors [n, d], one for each of `rows`."""

    rows: list[Row]
    numbers: npt.NDArray[np.float64]


def difference(found: Answers, wanted: Answers) -> str | None:
    """The first difference, None if there is none."""
    if len(found.rows) != len(wanted.rows) or found.numbers.shape != wanted.numbers.shape:
        return f"found the shape {found.numbers.shape}, wanted {wanted.numbers.shape}"
    for index, (ours, theirs) in enumerate(zip(found.rows, wanted.rows, strict=True)):
        if ours.ids != theirs.ids:
            return f"row {index} has {len(ours.ids)} tokens, wanted {len(theirs.ids)} others"
        if ours.types != theirs.types:
            return f"row {index} has other token types"
    apart = float(np.abs(found.numbers - wanted.numbers).max())
    return None if apart <= TOLERANCE else f"|Δ| = {apart:.2g}"
