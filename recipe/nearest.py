"""Exact search: the nearest of many vectors on disk, in blocks, on the GPU or the CPU."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from recipe.device import Device
from recipe.errors import StageFailed
from recipe.vectors import Vectors
from runtime.postprocess import Floats, Ints

# Vectors in one product, and questions: some 20 MB of scores.
BLOCK_ROWS, BLOCK_QUESTIONS = 4096, 1024
_FIRST_ROWS = 256
NOWHERE = -1
# (scores [n, rows], a torch tensor; the place of its first column) → sets what is unwanted to -inf.
Bar = Callable[[Any, int], None]


def nearest(
    asked: Floats,
    table: Vectors,
    count: int,
    device: Device,
    bar: Bar | None = None,
    rows: int = BLOCK_ROWS,
) -> tuple[Floats, Ints]:
    """The `count` vectors of `table` with the greatest inner product with each of `asked`.

    `asked` is float32 [n, d]. Returns scores, float32 [n, count], and places in `table`, int64
    [n, count], best first; equal scores in the order of the places. Products are computed in
    float32, `rows` vectors at a time. Where `bar` left fewer, scores are -inf and places NOWHERE;
    without it, fewer than `count` raise StageFailed: `table` has fewer, or there is a NaN.
    """
    import torch  # late: takes seconds

    questions = torch.tensor(asked, device=device)  # Ray's arrays are read-only
    best = torch.full((len(asked), count), -torch.inf, device=device)
    places = torch.full((len(asked), count), NOWHERE, device=device)
    for start, stop in _blocks(len(table) if count else 0, rows):
        block = torch.from_numpy(table.read(start, stop)).to(device)
        scores = questions @ block.T
        if bar is not None:
            bar(scores, start)
        # An equal score at a later place does not enter.
        enters = scores > best[:, -1:]
        each = enters.sum(1)
        row, column = enters.nonzero(as_tuple=True)
        if not len(row):
            continue
        # What enters, moved to the left: few columns once there was a block.
        shape = len(asked), int(each.max())
        left = torch.arange(len(row), device=device) - (each.cumsum(0) - each)[row]
        new = torch.full(shape, -torch.inf, device=device)
        new_places = torch.full(shape, NOWHERE, device=device)
        new[row, left] = scores[row, column]
        new_places[row, left] = column + start
        both, order = torch.cat([best, new], 1).sort(dim=1, descending=True, stable=True)
        best = both[:, :count].contiguous()
        places = torch.cat([places, new_places], 1).gather(1, order[:, :count])
    lacking = int((places == NOWHERE).any(1).sum())
    if bar is None and lacking:
        raise StageFailed(
            f"found fewer than {count} of {len(table)} vectors for {lacking} of {len(asked)} "
            "questions, wanted that many: NaN in a vector is near to none; remove the folder of "
            "vectors, so that they are computed again"
        )
    return best.cpu().numpy(), places.cpu().numpy().astype(np.int64, copy=False)


def _blocks(count: int, rows: int) -> Iterator[tuple[int, int]]:
    """Start and stop of blocks that grow to `rows`, so that of each only a few scores enter."""
    start = 0
    while start < count:
        stop = min(count, start + min(rows, max(_FIRST_ROWS, start)))
        yield start, stop
        start = stop
