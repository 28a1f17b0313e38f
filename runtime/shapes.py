"""Shapes of engine calls: what compiled engines take, and what captured graphs are made for.

Pure functions; a shape is (rows, tokens a row).
"""

from collections.abc import Sequence
from math import log
from typing import NamedTuple

Shape = tuple[int, int]


class ShapeRange(NamedTuple):
    """One optimisation profile: least, best and most rows (`batch`) and tokens (`sequence`)."""

    batch: tuple[int, int, int]
    sequence: tuple[int, int, int]

    def takes(self, rows: int, tokens: int) -> bool:
        """Whether a call of this shape, padded up to the least one, is within."""
        return rows <= self.batch[2] and tokens <= self.sequence[2]

    def padded(self, rows: int, tokens: int) -> Shape:
        """The shape that is computed for such a call."""
        return max(rows, self.batch[0]), max(tokens, self.sequence[0])

    def lowered(self, max_rows: int, max_tokens: int) -> "ShapeRange":
        """This range with its upper ends at most these, which saves the memory above."""
        least_rows, best_rows, most_rows = (min(n, max_rows) for n in self.batch)
        least, best, most = (min(n, max_tokens) for n in self.sequence)
        return ShapeRange((least_rows, best_rows, most_rows), (least, best, most))


def cheapest(ranges: Sequence[ShapeRange], rows: int, tokens: int) -> int | None:
    """The place of the range that computes such a call best, or None where none takes it.

    The least padding counts first; of ranges that pad alike, the one whose best shape is nearest
    in size, because a compiler chose its kernels for that one.
    """

    def cost(place: int) -> tuple[int, float]:
        computed_rows, computed_tokens = ranges[place].padded(rows, tokens)
        best = ranges[place].batch[1] * ranges[place].sequence[1]
        computed = computed_rows * computed_tokens
        return computed, abs(log(computed / best))

    fitting = [place for place, one in enumerate(ranges) if one.takes(rows, tokens)]
    return min(fitting, key=cost, default=None)


def needed(ranges: Sequence[ShapeRange], max_tokens: int) -> list[int]:
    """Places of the ranges worth opening for rows of at most `max_tokens`.

    One that goes further than another, which is long enough already and takes no fewer rows, costs
    memory and serves nothing.
    """

    def spare(place: int) -> bool:
        one = ranges[place]
        return any(
            max_tokens <= other.sequence[2] < one.sequence[2] and one.batch[2] <= other.batch[2]
            for other in ranges
        )

    return [place for place in range(len(ranges)) if not spare(place)]


def longest(ranges: Sequence[ShapeRange]) -> int | None:
    """The longest row that any range takes; None where there are none, which means no bound."""
    return max((one.sequence[2] for one in ranges), default=None)


def bucket(rows: int, tokens: int, max_rows: int) -> Shape:
    """The shape whose captured graph computes such a call: few shapes, little padding.

    Rows go up to a power of two (at most `max_rows`), tokens to a multiple of 16, of 32 above 128
    and of 64 above 256: of a row above 48 tokens at most a quarter is padding.
    """
    step = 16 if tokens <= 128 else 32 if tokens <= 256 else 64
    power = 1 << (rows - 1).bit_length()
    return max(rows, min(power, max_rows)), -(-tokens // step) * step
