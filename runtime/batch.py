"""Batching: which rows run in one engine call, and their arrays. Pure functions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from runtime.shapes import PLACES_INPUT, Shape, ShapeRange, cheapest
from runtime.text import Encoding

if TYPE_CHECKING:  # the benches batch where nothing reads profiles
    from runtime.profile import PaddingSide

# The graph inputs that `assemble` can fill.
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids", PLACES_INPUT)


class Measured(Protocol):
    """A row with its length in tokens."""

    length: int


R = TypeVar("R", bound=Measured)


@dataclass(frozen=True)
class BatchLimits:
    """Limits of engine calls.

    `max_rows` bounds the rows of a call, `token_budget` rows × longest row in tokens (a single
    longer row still runs, alone). `padding_waste` is the largest share of padding among those
    tokens. `shapes` are the engine's compiled shapes (none: every shape). `lanes` is the number of
    concurrent calls (None: as many as the engine takes).
    """

    max_rows: int
    token_budget: int
    padding_waste: float
    shapes: tuple[ShapeRange, ...] = ()
    lanes: int | None = None

    def within(self, rows: int) -> "BatchLimits":
        """These limits with `max_rows` lowered to `rows`."""
        return replace(self, max_rows=min(rows, self.max_rows))

    def allow(self, rows: int, real_tokens: int, longest: int) -> bool:
        """Whether `rows` rows of together `real_tokens` tokens may run as one call."""
        computed = rows * longest
        return (
            rows <= self.max_rows
            and computed <= self.token_budget
            and computed - real_tokens <= self.padding_waste * computed
            and (not self.shapes or cheapest(self.shapes, rows, longest) is not None)
        )


def grow_batch(
    batch: list[R], shorter: Iterator[R], longer: Iterator[R], limits: BatchLimits
) -> None:
    """Grow `batch`, which holds at least one row, with its neighbours in length.

    `shorter` yields them in falling length, `longer` in rising length; at most one row of each is
    read without being used. The neighbour nearest in length is added while the limits allow it:
    rows of like length waste little padding. Rows that are in the batch already always run.
    """
    lengths = [row.length for row in batch]
    tokens, shortest, longest = sum(lengths), min(lengths), max(lengths)
    below, above = next(shorter, None), next(longer, None)
    while True:
        rows, found, distance = len(batch) + 1, None, inf
        if below is not None and limits.allow(rows, tokens + below.length, longest):
            found, distance = below, shortest - below.length
        if (
            above is not None
            and above.length - longest < distance
            and limits.allow(rows, tokens + above.length, max(longest, above.length))
        ):
            found = above
        if found is None:
            return
        if found is above:
            above = next(longer, None)
        else:
            below = next(shorter, None)
        batch.append(found)
        tokens += found.length
        shortest, longest = min(shortest, found.length), max(longest, found.length)


def distinct(rows: Sequence[Encoding]) -> tuple[list[Encoding], npt.NDArray[np.int64]]:
    """The distinct rows, and for each of `rows` its index among them, int64 [n].

    Retrievers often return a passage twice; it is computed once, so both scores are equal.
    """
    places: dict[tuple[bytes, ...], int] = {}
    found: list[Encoding] = []
    index = np.empty(len(rows), np.int64)
    for number, row in enumerate(rows):
        place = places.setdefault(row.key, len(found))
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
    """The engine's inputs: int64 arrays [rows, longest] by name, for `input_names` of INPUT_NAMES;
    PLACES_INPUT int64 [real tokens].

    Rows are padded on `side` with `pad_id`. The attention mask is 1 on real tokens. Type ids are 0
    for rows without. A larger `shape` is filled with more padding and with copies of the first row,
    because a row of padding alone has no score.
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
    places = np.flatnonzero(mask) if PLACES_INPUT in input_names else mask
    arrays = dict(zip(INPUT_NAMES, (token_ids, mask, type_ids, places), strict=True))
    return {name: arrays[name] for name in input_names}
