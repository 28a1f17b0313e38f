"""What `make overload` judges: always the median, the p99 where it says something."""

import pytest

from checks.overload import Bound, _too_slow

BOUND = Bound(0.1, 0.2)


@pytest.mark.parametrize(
    ("seconds", "others", "faults", "told"),
    [
        ([0.05] * 200, 0.0, 0, ""),
        ([0.05] * 150 + [0.3] * 50, 0.0, 1, ""),
        ([0.05] * 150 + [0.3] * 50, 0.4, 0, "others use the machine"),
        ([0.05] * 60 + [0.3] * 30, 0.0, 0, "90 requests"),
        ([0.15] * 200, 0.4, 1, "others use the machine"),
        ([0.3] * 200, 0.0, 2, ""),
        ([], 0.0, 1, ""),
    ],
)
def test_median_and_p99(
    seconds: list[float],
    others: float,
    faults: int,
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert len(_too_slow("accepted", seconds, BOUND, others)) == faults
    said = capsys.readouterr().out
    assert ("not judged" in said) == bool(told)
    assert told in said
