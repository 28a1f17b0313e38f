"""Which profile computes a call, what it costs, and into which captured graph it goes."""

from hypothesis import given
from hypothesis import strategies as st

from runtime.shapes import ShapeRange, bucket, cheapest, longest, needed

SHORT = ShapeRange((1, 16, 64), (3, 256, 512))
LONG = ShapeRange((1, 4, 8), (3, 2048, 4096))
WIDE = ShapeRange((8, 32, 64), (32, 64, 128))


def test_a_call_goes_to_the_profile_that_was_tuned_for_its_size() -> None:
    assert cheapest([LONG, SHORT], 4, 400) == 1
    assert cheapest([SHORT, LONG], 4, 513) == 1
    assert cheapest([SHORT, LONG], 8, 512) == 0


def test_padding_counts_before_tuning() -> None:
    assert cheapest([WIDE, SHORT], 1, 10) == 1
    assert cheapest([SHORT, WIDE], 32, 64) == 1


def test_what_no_profile_takes_has_no_place() -> None:
    assert cheapest([SHORT, LONG], 9, 513) is None
    assert cheapest([SHORT], 65, 3) is None
    assert cheapest([], 1, 1) is None


def test_a_call_below_the_least_shape_is_padded_up_to_it() -> None:
    assert WIDE.padded(2, 3) == (8, 32)
    assert SHORT.padded(1, 400) == (1, 400)


def test_a_bound_on_tokens_spares_the_profiles_beyond() -> None:
    assert needed([SHORT, LONG], 512) == [0]
    assert needed([SHORT, LONG], 513) == [0, 1]
    # A longer one that takes more rows serves something.
    assert needed([LONG, ShapeRange((1, 1, 64), (3, 8, 8192))], 1000) == [0, 1]
    assert needed([SHORT], 100) == [0]


def test_longest_row() -> None:
    assert longest([SHORT, LONG]) == 4096
    assert longest([]) is None


@given(
    shapes=st.lists(
        st.builds(
            ShapeRange,
            st.tuples(st.integers(1, 4), st.just(4), st.integers(4, 64)),
            st.tuples(st.integers(1, 8), st.just(8), st.integers(8, 600)),
        ),
        min_size=1,
        max_size=4,
    ),
    rows=st.integers(1, 64),
    tokens=st.integers(1, 600),
)
def test_the_cheapest_takes_the_call_and_pads_least(
    shapes: list[ShapeRange], rows: int, tokens: int
) -> None:
    fitting = [one for one in shapes if one.takes(rows, tokens)]
    place = cheapest(shapes, rows, tokens)
    if place is None:
        assert not fitting
        return
    areas = [a * b for a, b in (one.padded(rows, tokens) for one in fitting)]
    found = shapes[place].padded(rows, tokens)
    assert found[0] * found[1] == min(areas)


@given(
    shape=st.builds(
        ShapeRange,
        st.tuples(st.integers(1, 4), st.integers(4, 8), st.integers(8, 64)),
        st.tuples(st.integers(1, 8), st.integers(8, 64), st.integers(64, 600)),
    ),
    rows=st.integers(1, 64),
    tokens=st.integers(1, 600),
)
def test_a_lowered_range_stays_a_range_within_the_bounds(
    shape: ShapeRange, rows: int, tokens: int
) -> None:
    lowered = shape.lowered(rows, tokens)
    for axis, bound in ((lowered.batch, rows), (lowered.sequence, tokens)):
        assert list(axis) == sorted(axis)
        assert axis[2] <= bound


@given(rows=st.integers(1, 64), tokens=st.integers(1, 8192), max_rows=st.integers(1, 64))
def test_a_bucket_holds_its_call_and_is_its_own_bucket(
    rows: int, tokens: int, max_rows: int
) -> None:
    most = max(rows, max_rows)
    found = bucket(rows, tokens, most)
    assert found[0] >= rows
    assert found[0] <= most
    assert found[1] >= tokens
    assert bucket(*found, most) == found
    if tokens >= 48:
        assert found[1] - tokens <= found[1] / 4


def test_buckets_are_few() -> None:
    shapes = {
        bucket(rows, tokens, 64)
        for rows in range(1, 65)
        for tokens in range(1, 513)
        if rows * tokens <= 4096
    }
    assert len(shapes) < 120
