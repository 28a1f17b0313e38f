"""Order, relevance and shorter vectors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime.postprocess import Floats, descending, relevance, shorten, unit

# Components whose squares neither vanish nor overflow in float32's precision.
_COMPONENTS = st.floats(-1e3, 1e3, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)
_VECTORS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=_COMPONENTS
)


def test_descending_and_stable_on_ties() -> None:
    assert descending(np.asarray([1, 3, 3, -2, 3], np.float32)).tolist() == [1, 2, 4, 0, 3]


def test_relevance_is_the_sigmoid_in_float64() -> None:
    logits = np.asarray([0.0, 1.0, -1.0, 6.5], np.float32)
    found = relevance(logits)
    assert found.dtype == np.float64
    assert found == pytest.approx(1 / (1 + np.exp(-logits.astype(np.float64))), rel=1e-15)


def test_relevance_bears_the_largest_logits() -> None:
    """numpy's overflow warnings would be errors here."""
    found = relevance(np.asarray([-3e38, -800, 800, 3e38], np.float32))
    assert found.tolist() == [0, 0, 1, 1]


def test_relevance_tells_apart_what_float32_could_not() -> None:
    high = relevance(np.asarray([18.0, 19.0], np.float32))
    assert high[0] < high[1] < 1


def test_shorten_keeps_the_first_components() -> None:
    vectors = np.asarray([[3, 4, 12], [0, 0, 5]], np.float32)
    assert shorten(vectors, 2) == pytest.approx(np.asarray([[0.6, 0.8], [0, 0]]))


@pytest.mark.parametrize("dimensions", [3, 4, 10**9])
def test_as_many_dimensions_as_there_are_change_nothing(dimensions: int) -> None:
    vectors = np.asarray([[3, 4, 12]], np.float32)
    assert np.array_equal(shorten(vectors, dimensions), vectors)


@given(vectors=_VECTORS, dimensions=st.integers(1, 8))
def test_shortened_vectors_have_length_one_and_their_old_direction(
    vectors: Floats, dimensions: int
) -> None:
    whole = unit(vectors)
    found = shorten(whole, dimensions)
    assert found.dtype == np.float32
    assert found.shape == (len(vectors), min(dimensions, vectors.shape[1]))
    for short, first in zip(found, whole[:, :dimensions], strict=True):
        length = np.linalg.norm(first.astype(np.float64))
        if length == 0:
            assert not short.any()
        else:
            assert np.linalg.norm(short) == pytest.approx(1, abs=1e-5)
            assert short == pytest.approx(first / length, abs=1e-6)
