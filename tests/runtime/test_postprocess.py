"""Order."""

import numpy as np

from runtime.postprocess import descending


def test_descending_and_stable_on_ties() -> None:
    assert descending(np.asarray([1, 3, 3, -2, 3], np.float32)).tolist() == [1, 2, 4, 0, 3]
