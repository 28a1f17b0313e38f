"""Which rows run together, and how they are laid out for an engine. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from runtime.shapes import Shape, ShapeRange, cheapest
from runtime.text import Encoding

if TYPE_CHECKING:  # the benches batch where nothing reads profiles
    from runtime.profile import PaddingSide

# The graph inputs that `assemble` can fill.
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class BatchLimits:
    """Bounds of one engine call.

    `max_rows` rows; `token_budget` rows × longest row, in tokens (a single longer row still
    runs, alone); `padding_waste` the largest share of padding among those tokens; `shapes` what
    the engine was compiled for (none: every shape).
    """

    max_rows: int
    token_budget: int
    padding_waste: float
    shapes: tuple[ShapeRange, ...] = ()

    def allow(self, rows: int, real_tokens: int, longest: int) -> bool:
        """Whether `rows` rows of together `real_tokens` tokens may run as one call."""
        computed = rows * longest
        return (
            rows <= self.max_rows
            and computed <= self.token_budget
            and computed - real_tokens <= self.padding_waste * computed
            and (not self.shapes or cheapest(self.shapes, rows, longest) is not None)
        )


def grow_batch(lengths: Sequence[int], start: int, limits: BatchLimits) -> tuple[int, int]:
    """The slice [first, last) of ascending `lengths` that should run with row `start`.

    Takes the neighbour nearest in length, shorter or longer, as long as the limits allow: rows
    of like length waste no padding, and `start` (the oldest row) always runs.
    """
    first, last = start, start + 1
    real_tokens = lengths[start]
    while True:
        shorter = first - 1 if first > 0 else None
        longer = last if last < len(lengths) else None
        rows = last - first + 1
        fits_shorter = shorter is not None and limits.allow(
            rows, real_tokens + lengths[shorter], lengths[last - 1]
        )
        fits_longer = longer is not None and limits.allow(
            rows, real_tokens + lengths[longer], lengths[longer]
        )
        if not fits_shorter and not fits_longer:
            return first, last
        if fits_shorter and fits_longer:
            assert shorter is not None
            assert longer is not None
            step_down = lengths[first] - lengths[shorter]
            fits_longer = lengths[longer] - lengths[last - 1] < step_down
        if fits_longer:
            assert longer is not None
            real_tokens += lengths[longer]
            last += 1
        else:
            assert shorter is not None
            real_tokens += lengths[shorter]
            first -= 1


def distinct(rows: Sequence[Encoding]) -> tuple[list[Encoding], npt.NDArray[np.int64]]:
    """The rows without repetitions, and for each of `rows` its place among them.

    Retrievers often return a passage twice; it is computed once and scores exactly alike.
    """
    places: dict[tuple[bytes, bytes], int] = {}
    found: list[Encoding] = []
    index = np.empty(len(rows), np.int64)
    for number, row in enumerate(rows):
        type_ids = b"" if row.type_ids is None else row.type_ids.tobytes()
        place = places.setdefault((row.token_ids.tobytes(), type_ids), len(found))
        if place == len(found):
            found.append(row)
        index[number] = place
    return found, index


def assemble(
    rows: Sequence[Encoding],
    input_names: Sequence[str],
    pad_id: int,
    side: "PaddingSide",
    shape: Shape | None = None,
) -> dict[str, npt.NDArray[np.generic]]:
    """Named int64 arrays [rows, longest] for an engine that wants `input_names` (of INPUT_NAMES).

    Rows are padded on `side` with `pad_id`; the attention mask is 1 on real tokens. Type ids are
    0 for rows that have none. A larger `shape` is filled up: with longer padding, and with copies
    of the first row, since a row of nothing but padding has no score.
    """
    shape = shape or (len(rows), max(len(row) for row in rows))
    longest = shape[1]
    rows = [*rows, *[rows[0]] * (shape[0] - len(rows))]
    token_ids = np.full(shape, pad_id, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    type_ids = np.zeros(shape, dtype=np.int64)
    for index, row in enumerate(rows):
        start = longest - len(row) if side == "left" else 0
        span = slice(start, start + len(row))
        token_ids[index, span] = row.token_ids
        mask[index, span] = 1
        if row.type_ids is not None:
            type_ids[index, span] = row.type_ids
    arrays = dict(zip(INPUT_NAMES, (token_ids, mask, type_ids), strict=True))
    return {name: arrays[name] for name in input_names}
