"""Order and relevance."""

import numpy as np

from runtime.postprocess import descending, relevance


def test_descending_and_stable_on_ties() -> None:
    assert descending(np.asarray([1, 3, 3, -2, 3], np.float32)).tolist() == [1, 2, 4, 0, 3]


def test_strong_positives_do_not_tie() -> None:
    low, high = relevance(np.asarray([20.0, 23.0], np.float32))
    assert low < high < 1.0


def test_strong_negatives_do_not_overflow() -> None:
    assert relevance(np.asarray([-60.0], np.float32))[0] > 0.0
