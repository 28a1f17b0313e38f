"""The verdict of a run: who is compared with whom."""

import pytest

from benchmarks.results import (
    CandidateFacts,
    Fidelity,
    Measured,
    ModelFacts,
    Point,
    Results,
    Sample,
)
from benchmarks.verdict import class_of, verdict


def facts(precision: str, *, ours: bool = False, serves: bool = True) -> CandidateFacts:
    return CandidateFacts("1.0", precision, ours, serves, "")


def judged(tau: float | None) -> Fidelity:
    return Fidelity(2, 0.1, 1.0, 1.0, 1.0, tau)


@pytest.mark.parametrize(
    ("precision", "ours", "tau", "wanted"),
    [
        ("fp32", False, 0.99, "faithful"),
        ("bf16", True, 0.989, "ranking-safe"),
        ("int8", False, 0.96, "ranking-safe"),
        ("int8", True, 0.94, None),
        ("bf16", False, None, "faithful"),
        ("int8", True, None, "ranking-safe"),
        ("int8", False, None, None),
    ],
)
def test_the_class_is_what_was_measured_and_else_the_precisions(
    precision: str, ours: bool, tau: float | None, wanted: str | None
) -> None:
    assert class_of(facts(precision, ours=ours), judged(tau)) == wanted
    if tau is None:
        assert class_of(facts(precision, ours=ours), None) == wanted


def results(**seconds: tuple[float, ...]) -> Results:
    candidates = {
        "ours": facts("fp32", ours=True),
        "ours-int8": facts("int8", ours=True),
        "ours-direct": facts("fp32", ours=True, serves=False),
        "peer": facts("bf16", serves=False),
        "peer-int8": facts("int8", serves=False),
    }
    point = Point("tiny", "tiny", "tiny", 2, 1, 1, 100, 1e9)
    point.measured = {
        name.replace("_", "-"): Measured([Sample(one, [one], [], 0.0) for one in repeats])
        for name, repeats in seconds.items()
    }
    found = ModelFacts("a tiny model", fidelity={"peer-int8": judged(0.8)})
    return Results("", "", "", {}, candidates, {"tiny": found}, [point])


def test_each_class_names_the_fastest_and_the_best_peer_of_it() -> None:
    text = verdict(
        results(ours=(1.0,), ours_int8=(0.5,), ours_direct=(0.1,), peer=(2.0,), peer_int8=(0.2,))
    )
    assert "| tiny, 2 passages | faithful | ours | 100 | peer | 50 | 2 |" in text
    assert "| tiny, 2 passages | ranking-safe | ours-int8 | 200 | peer | 50 | 4 |" in text
    assert "peer-int8" not in text


def test_repeats_that_differ_are_said() -> None:
    assert "100 (spread 17%)" in verdict(results(ours=(1.0, 1.2, 1.0), peer=(2.0, 2.0, 2.0)))


@pytest.mark.parametrize("one", ["ours", "peer"])
def test_nobody_is_compared_with_nobody(one: str) -> None:
    assert verdict(results(**{one: (1.0,)})) == ""
