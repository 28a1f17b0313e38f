"""Shapes of engine calls: ranges of compiled engines, and buckets for captured CUDA graphs.

Pure functions; a shape is (rows, tokens a row).
"""

from collections.abc import Sequence
from math import log
from typing import NamedTuple

Shape = tuple[int, int]
# An input of packed graphs, which compute the named tokens alone: their places in the flattened
# batch, int64 [tokens].
PLACES_INPUT = "token_places"


class ShapeRange(NamedTuple):
    """One optimisation profile: least, best and most rows (`batch`) and tokens (`sequence`)."""

    batch: tuple[int, int, int]
    sequence: tuple[int, int, int]

    def takes(self, rows: int, tokens: int) -> bool:
        """Whether a call of this shape fits, padded to the smallest shape where it is smaller."""
        return rows <= self.batch[2] and tokens <= self.sequence[2]

    def padded(self, rows: int, tokens: int) -> Shape:
        """The shape that is computed for a call of this shape."""
        return max(rows, self.batch[0]), max(tokens, self.sequence[0])

    def lowered(self, max_rows: int, max_tokens: int) -> "ShapeRange":
        """This range with its upper ends lowered to these, which saves memory."""
        least_rows, best_rows, most_rows = (min(n, max_rows) for n in self.batch)
        least, best, most = (min(n, max_tokens) for n in self.sequence)
        return ShapeRange((least_rows, best_rows, most_rows), (least, best, most))


def cheapest(ranges: Sequence[ShapeRange], rows: int, tokens: int) -> int | None:
    """The index of the best range for a call of this shape; None if no range takes it.

    The range with the least padding wins. Among equals, the one whose best shape is nearest in size
    wins, because its kernels were chosen for that shape.
    """

    def cost(place: int) -> tuple[int, float]:
        computed_rows, computed_tokens = ranges[place].padded(rows, tokens)
        best = ranges[place].batch[1] * ranges[place].sequence[1]
        computed = computed_rows * computed_tokens
        return computed, abs(log(computed / best))

    fitting = [place for place, one in enumerate(ranges) if one.takes(rows, tokens)]
    return min(fitting, key=cost, default=None)


def needed(ranges: Sequence[ShapeRange], max_tokens: int) -> list[int]:
    """Indexes of the ranges worth opening for rows of at most `max_tokens`.

    A range is left out when a shorter one is long enough and takes as many rows: it would only cost
    memory.
    """

    def spare(place: int) -> bool:
        one = ranges[place]
        return any(
            max_tokens <= other.sequence[2] < one.sequence[2] and one.batch[2] <= other.batch[2]
            for other in ranges
        )

    return [place for place in range(len(ranges)) if not spare(place)]


def longest(ranges: Sequence[ShapeRange]) -> int | None:
    """The longest row that any range takes; None without ranges, which means no limit."""
    return max((one.sequence[2] for one in ranges), default=None)


def widest(ranges: Sequence[ShapeRange]) -> int | None:
    """The most rows that any range takes; None without ranges, which means no limit."""
    return max((one.batch[2] for one in ranges), default=None)


def bucket(rows: int, tokens: int, max_rows: int) -> Shape:
    """The bucket of a call: the shape of the captured graph that computes it.

    Rows are rounded up to a power of two (at most `max_rows`); tokens to a multiple of 16, of 32
    above 128, and of 64 above 256. At most a quarter of a row above 48 tokens is padding; of rows
    up to a half, which the caller judges.
    """
    step = 16 if tokens <= 128 else 32 if tokens <= 256 else 64
    power = 1 << (rows - 1).bit_length()
    return max(rows, min(power, max_rows)), -(-tokens // step) * step


def shapes_with_graphs(most_tokens: int, max_rows: int) -> list[Shape]:
    """Every bucket of at most `most_tokens` tokens, the largest first."""
    found = {
        bucket(rows, tokens, max_rows)
        for rows in range(1, max_rows + 1)
        for tokens in range(1, most_tokens // rows + 1)
    }
    fitting = [shape for shape in found if shape[0] * shape[1] <= most_tokens]
    return sorted(fitting, key=lambda shape: (-shape[0] * shape[1], shape))
