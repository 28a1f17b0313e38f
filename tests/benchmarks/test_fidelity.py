"""Fidelity of scores, in value and in order."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.fidelity import Judged, add_collection, compare, judged_queries, kendall_tau


def test_scores_that_are_equal_are_faithful() -> None:
    found = compare([0.5, -1.0, 2.0], [0.5, -1.0, 2.0])
    assert (found.max_abs_delta, found.tau, found.top10, found.pairs) == (0.0, 1.0, 1.0, 3)


def test_the_largest_difference_and_the_share_of_the_first_ten() -> None:
    reference = [float(n) for n in range(20)]
    swapped = [*reference[:9], 10.0, 9.0, *reference[11:]]
    found = compare(reference, swapped)
    assert found.max_abs_delta == 1.0
    assert found.top10 == 0.9
    assert found.tau == pytest.approx(1 - 2 / 190)


def test_tau_looks_at_pairs_that_the_reference_tells_apart() -> None:
    reference = np.asarray([0.0, 1e-6, 1.0])
    assert kendall_tau(reference, np.asarray([1e-6, 0.0, 1.0])) == 1.0
    assert kendall_tau(reference, np.asarray([2.0, 2.0, 1.0])) == -1.0
    assert kendall_tau(reference, np.asarray([1.0, 1.0, 1.0])) == 0.0
    assert kendall_tau(np.zeros(3), np.asarray([3.0, 1.0, 2.0])) == 1.0


def test_a_collection_adds_order_and_drift() -> None:
    judged = [Judged("q", ["a", "b"], ["7", "8"], {"7": 1})]
    found = compare([1.0, 0.0], [1.0, 0.0])
    add_collection(found, judged, [[1.0, 0.0]], [[0.0, 1.0]])
    assert found.cranfield_tau == -1.0
    assert found.ndcg == pytest.approx(1 / np.log2(3))
    assert found.ndcg_drift == pytest.approx(1 / np.log2(3) - 1)


def test_without_the_collection_nothing_is_judged(tmp_path: Path) -> None:
    assert judged_queries(tmp_path / "absent", 3) == []
