"""The comparison of check-ray."""

from typing import Any

import pytest

from checks.ray_workers import _same

DOCUMENT: dict[str, Any] = {"data": [{"id": 7, "scores": [1.5, -0.25]}]}


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"data": [{"id": 7, "scores": [1.5, -0.250009]}]}, True),
        ({"data": [{"id": 7, "scores": [1.5, -0.26]}]}, False),
        ({"data": [{"id": 7, "scores": [-0.25, 1.5]}]}, False),
        ({"data": [{"id": 7, "scores": [1.5]}]}, False),
        ({"data": [{"id": 8, "scores": [1.5, -0.25]}]}, False),
        ({"data": []}, False),
    ],
)
def test_only_sums_may_differ(other: dict[str, Any], same: bool) -> None:
    assert _same(DOCUMENT, other) is same
