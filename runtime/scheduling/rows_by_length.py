"""Rows by length: neighbours waste no padding when they run together."""

import bisect
from collections import OrderedDict
from collections.abc import Iterator

from runtime.scheduling.request import Row


class RowsByLength:
    """Rows in the order of their length, and of their arrival where that is the same.

    A row comes and goes in O(1), and in O(log n) where it is the only one of its length (moving
    the lengths behind it is one copy of memory); neighbours are found one by one.
    """

    def __init__(self) -> None:
        # Ordered dicts, because a plain one is slow to find its first key when many before it left.
        self._of_length: dict[int, OrderedDict[Row, None]] = {}
        self._lengths: list[int] = []

    def add(self, row: Row) -> None:
        """One more row."""
        rows = self._of_length.get(row.length)
        if rows is None:
            rows = self._of_length[row.length] = OrderedDict()
            bisect.insort(self._lengths, row.length)
        rows[row] = None

    def remove(self, row: Row) -> None:
        """One row less. Raises KeyError."""
        rows = self._of_length[row.length]
        del rows[row]
        if not rows:
            del self._of_length[row.length]
            del self._lengths[bisect.bisect_left(self._lengths, row.length)]

    def shorter(self, row: Row) -> Iterator[Row]:
        """Rows that are shorter than this one, the longest first."""
        for place in range(bisect.bisect_left(self._lengths, row.length) - 1, -1, -1):
            yield from self._of_length[self._lengths[place]]

    def longer(self, row: Row) -> Iterator[Row]:
        """Rows of the length of this one, itself too, then the longer ones, the shortest first."""
        for place in range(bisect.bisect_left(self._lengths, row.length), len(self._lengths)):
            yield from self._of_length[self._lengths[place]]
