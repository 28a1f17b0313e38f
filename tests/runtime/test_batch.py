"""Which rows run together, and how they are padded."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.batch import BatchLimits, assemble, distinct, grow_batch
from runtime.shapes import ShapeRange
from runtime.text import Encoding


def row(*ids: int, types: list[int] | None = None) -> Encoding:
    return Encoding(
        np.asarray(ids, dtype=np.int64), None if types is None else np.asarray(types, np.int64)
    )


@dataclass
class Sized:
    """All of a row that counts here."""

    length: int


def grown(lengths: list[int], start: int, limits: BatchLimits) -> list[int]:
    """The lengths of the batch that grows around number `start` of these, which ascend."""
    rows = [Sized(length) for length in lengths]
    batch = [rows[start]]
    grow_batch(batch, reversed(rows[:start]), iter(rows[start + 1 :]), limits)
    return sorted(row.length for row in batch)


def test_equal_lengths_fill_the_token_budget() -> None:
    assert grown([10] * 8, 3, BatchLimits(64, 50, 0.1)) == [10] * 5


def test_no_more_neighbours_are_looked_at_than_are_taken_and_one() -> None:
    seen = itertools.count()

    def endless(length: int) -> Iterator[Sized]:
        while True:
            next(seen)
            yield Sized(length)

    batch = [Sized(10)]
    grow_batch(batch, endless(9), endless(10), BatchLimits(8, 1000, 0.9))
    assert len(batch) == 8
    assert next(seen) == 7 + 2


def test_a_row_above_the_budget_runs_alone() -> None:
    assert grown([5, 500], 1, BatchLimits(64, 50, 0.5)) == [500]


def test_max_rows_of_one_runs_single_rows() -> None:
    assert grown([5, 5, 5], 1, BatchLimits(1, 1000, 0.5)) == [5]


def test_the_nearest_length_comes_first() -> None:
    assert grown([1, 9, 10, 30], 2, BatchLimits(2, 1000, 0.9)) == [9, 10]


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40).map(sorted),
    start=st.integers(0, 39),
    limits=st.builds(BatchLimits, st.integers(1, 16), st.integers(1, 2000), st.floats(0.0, 0.9)),
)
def test_a_batch_holds_its_start_and_keeps_the_limits(
    lengths: list[int], start: int, limits: BatchLimits
) -> None:
    start %= len(lengths)
    chosen = grown(lengths, start, limits)
    assert lengths[start] in chosen
    assert len(chosen) == 1 or limits.allow(len(chosen), sum(chosen), max(chosen))


def test_padding_on_either_side() -> None:
    rows = [row(1, 2, 3), row(4)]
    left = assemble(rows, ["input_ids", "attention_mask"], 9, "left")
    assert left["input_ids"].tolist() == [[1, 2, 3], [9, 9, 4]]
    assert left["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    right = assemble(rows, ["input_ids", "attention_mask"], 9, "right")
    assert right["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]


def test_type_ids_go_only_to_engines_that_want_them() -> None:
    rows = [row(1, 2, 3, types=[0, 1, 1]), row(4, 5, types=[0, 1])]
    wanted = assemble(rows, ["token_type_ids", "input_ids"], 0, "right")
    assert wanted["token_type_ids"].tolist() == [[0, 1, 1], [0, 1, 0]]
    assert set(assemble(rows, ["input_ids"], 0, "right")) == {"input_ids"}


def test_repeated_rows_are_found_by_tokens_and_types() -> None:
    a, b = np.asarray([1, 2]), np.asarray([1, 3])
    types = np.asarray([0, 1])
    rows = [Encoding(a, None), Encoding(b, None), Encoding(a.copy(), None), Encoding(a, types)]
    found, places = distinct(rows)
    assert [id(row) for row in found] == [id(rows[0]), id(rows[1]), id(rows[3])]
    assert places.tolist() == [0, 1, 0, 2]
    nothing, nowhere = distinct([])
    assert (nothing, nowhere.tolist()) == ([], [])


def test_batches_are_cut_to_what_the_engine_was_compiled_for() -> None:
    shapes = (ShapeRange((1, 2, 4), (3, 8, 16)), ShapeRange((1, 1, 2), (3, 32, 64)))
    limits = BatchLimits(64, 10_000, 0.9, shapes)
    assert grown([10] * 8, 0, limits) == [10] * 4
    assert grown([30] * 8, 0, limits) == [30] * 2
    # A long row takes no more neighbours than its own profile has rows for.
    assert grown([10, 11, 12, 40], 3, limits) == [12, 40]


def test_a_larger_shape_is_filled_with_padding_and_copies() -> None:
    found = assemble([row(5, 6), row(7)], ("input_ids", "attention_mask"), 9, "left", (3, 4))
    assert found["input_ids"].tolist() == [[9, 9, 5, 6], [9, 9, 9, 7], [9, 9, 5, 6]]
    assert found["attention_mask"].tolist() == [[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1]]


def test_packed_graphs_are_told_where_the_real_tokens_are() -> None:
    rows = [row(1, 2, 3), row(4), row(5, 6)]
    right = assemble(rows, ["input_ids", "token_places"], 9, "right", (3, 4))
    assert right["token_places"].tolist() == [0, 1, 2, 4, 8, 9]
    left = assemble(rows, ["token_places"], 9, "left")
    assert left["token_places"].tolist() == [0, 1, 2, 5, 7, 8]
    assert right["token_places"].dtype == np.int64
