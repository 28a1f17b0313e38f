"""An index of rows by length: neighbours in length waste little padding in one batch."""

import bisect
from collections import OrderedDict
from collections.abc import Iterator

from runtime.scheduling.request import Row


class RowsByLength:
    """Rows ordered by length, and by arrival among equal lengths.

    Adding and removing a row is O(1), or O(log n) for the only row of its length (plus one copy of
    memory to shift the lengths after it). Neighbours are found one by one.
    """

    def __init__(self) -> None:
        # OrderedDict: a plain dict finds its first key slowly after many removals before it.
        self._of_length: dict[int, OrderedDict[Row, None]] = {}
        self._lengths: list[int] = []

    def add(self, row: Row) -> None:
        """Add a row."""
        rows = self._of_length.get(row.length)
        if rows is None:
            rows = self._of_length[row.length] = OrderedDict()
            bisect.insort(self._lengths, row.length)
        rows[row] = None

    def remove(self, row: Row) -> None:
        """Remove a row. Raises KeyError."""
        rows = self._of_length[row.length]
        del rows[row]
        if not rows:
            del self._of_length[row.length]
            del self._lengths[bisect.bisect_left(self._lengths, row.length)]

    def shorter(self, row: Row) -> Iterator[Row]:
        """Rows shorter than this one, the longest first."""
        for place in range(bisect.bisect_left(self._lengths, row.length) - 1, -1, -1):
            yield from self._of_length[self._lengths[place]]

    def longer(self, row: Row) -> Iterator[Row]:
        """Rows of this length, this row included, then longer ones, the shortest first."""
        for place in range(bisect.bisect_left(self._lengths, row.length), len(self._lengths)):
            yield from self._of_length[self._lengths[place]]
