"""Medians, ratios and the choice of finalists."""

import pytest

from benchmarks.results import (
    Measured,
    Point,
    Sample,
    Spread,
    best,
    percentile,
    rates,
    ratio,
    spread,
)


def point(**seconds: list[float]) -> Point:
    measured = {
        name: Measured([Sample(one, [one], [0.0], 0.0) for one in found])
        for name, found in seconds.items()
    }
    return Point("embedded", "embedded", "a load", 4, 1, 1, 100, 1e9, measured=measured)


def test_a_spread_is_median_lowest_and_highest() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


def test_rates_count_the_tokens_of_the_whole_load() -> None:
    assert rates(point(ours=[2.0, 4.0]), "ours") == [50.0, 25.0]
    assert rates(point(), "ours") == []


def test_a_ratio_compares_repeat_with_repeat() -> None:
    # The second repeat was slow for both: the ratio does not move.
    assert ratio(point(ours=[1.0, 2.0], peer=[3.0, 6.0]), "ours", "peer") == Spread(3.0, 3.0, 3.0)


def test_a_ratio_takes_the_repeats_that_both_have() -> None:
    found = ratio(point(ours=[1.0, 1.0, 1.0], peer=[2.0, 4.0]), "ours", "peer")
    assert found == Spread(3.0, 2.0, 4.0)
    assert ratio(point(ours=[1.0], peer=[]), "ours", "peer") is None


def test_the_best_are_the_fastest_by_median() -> None:
    found = point(a=[1.0, 1.0, 9.0], b=[2.0], c=[], d=[3.0])
    assert best(found, ["d", "c", "b", "a"], 2) == ["a", "b"]


@pytest.mark.parametrize(("share", "wanted"), [(0.0, 1.0), (0.5, 3.0), (0.99, 4.0), (1.0, 4.0)])
def test_percentiles_are_values_that_were_measured(share: float, wanted: float) -> None:
    assert percentile([4.0, 2.0, 3.0, 1.0], share) == wanted
