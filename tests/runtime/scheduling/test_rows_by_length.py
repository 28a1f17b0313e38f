"""Rows by length."""

from hypothesis import given
from hypothesis import strategies as st

from runtime.scheduling.request import Request
from runtime.scheduling.rows_by_length import RowsByLength
from tests.runtime.scheduling.schedulers import row

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=40)


@given(lengths=LENGTHS, start=st.integers(0, 39), gone=st.sets(st.integers(0, 39)))
def test_neighbours_come_in_the_order_of_their_length(
    lengths: list[int], start: int, gone: set[int]
) -> None:
    request = Request([row(length) for length in lengths], None, "", 0.0)
    rows = sorted(request.waiting, key=lambda one: one.index)
    first = rows[start % len(rows)]
    queue = RowsByLength()
    for one in rows:
        queue.add(one)
    for index in gone:
        if index < len(rows) and rows[index] is not first:
            queue.remove(rows[index])
    left = [one for one in rows if one is first or one.index not in gone]
    shorter = [one for one in left if one.length < first.length]
    longer = [one for one in left if one.length >= first.length]
    # Of one length, those that came first are first, in both directions.
    assert list(queue.shorter(first)) == sorted(shorter, key=lambda one: -one.length)
    assert list(queue.longer(first)) == sorted(longer, key=lambda one: one.length)
