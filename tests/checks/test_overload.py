"""The verdicts of `make overload`: exceeded limits, except on a machine that others use."""

import pytest

from checks.here import NOT_HERE
from checks.overload import Answered, Bound, Rate, _judge, _too_slow, _verdict

BOUND = Bound(0.1, 0.2)
RATE = Rate(10.0, 1000.0)
ACCEPTED, REFUSED = Answered(200, 0.01, False), Answered(503, 0.01, True)


@pytest.mark.parametrize(
    ("seconds", "broken"),
    [
        ([0.05] * 200, []),
        ([0.05] * 150 + [0.3] * 50, ["p99"]),
        ([0.05] * 60 + [0.3] * 30, []),  # too few to have a p99
        ([0.15] * 200, ["median"]),
        ([0.3] * 200, ["median", "p99"]),
        ([], []),
    ],
)
def test_median_and_p99(seconds: list[float], broken: list[str]) -> None:
    found = _too_slow("accepted", seconds, BOUND)
    assert found == [f"the {name} of the accepted is above the bound" for name in broken]


@pytest.mark.parametrize("others", [0.0, 0.04, 0.06, 1.0])
def test_a_bound_that_holds_holds_anywhere(others: float) -> None:
    assert _verdict([], [], others) == 0


def test_what_is_late_counts_on_a_quiet_machine_only() -> None:
    assert _verdict([], ["late"], 0.04) == 1
    with pytest.raises(SystemExit, match=f"^{NOT_HERE}other processes took 40%"):
        _verdict([], ["late"], 0.4)


def test_other_faults_count_anywhere() -> None:
    assert _verdict(["a refusal without Retry-After"], ["late"], 0.4) == 1


def test_arrivals_of_which_none_is_refused_count_on_a_quiet_machine_only() -> None:
    """The sustainable rate may have been measured while other processes were running."""
    assert _judge(BOUND, RATE, 1000, [ACCEPTED, REFUSED], RATE, 0.4) == 0
    assert _judge(BOUND, RATE, 1000, [ACCEPTED], RATE, 0.04) == 1
    with pytest.raises(SystemExit, match=f"^{NOT_HERE}other processes took 40%"):
        _judge(BOUND, RATE, 1000, [ACCEPTED], RATE, 0.4)


def test_arrivals_of_which_none_is_accepted_count_anywhere() -> None:
    assert _judge(BOUND, RATE, 1000, [REFUSED], RATE, 0.4) == 1
