"""The estimate that decides who is refused."""

from runtime.throughput import Throughput


def measured(*seconds: float) -> Throughput:
    throughput = Throughput()
    for took in seconds:
        throughput.record(100, took, now=1000.0)
    return throughput


def test_nothing_is_predicted_from_a_few_calls() -> None:
    assert measured(*[2.0] * 7).predicted_s(10_000, 1000.0, busy=False) == 0.0
    assert measured(*[2.0] * 8).predicted_s(10_000, 1000.0, busy=False) == 200.0


def test_a_cold_start_does_not_count() -> None:
    assert measured(*[60.0] * 4, *[0.1] * 8).predicted_s(100, 1000.0, busy=False) == 0.1


def test_an_old_estimate_refuses_nobody() -> None:
    assert measured(*[60.0] * 20).predicted_s(100, 1061.0, busy=False) == 0.0


def test_an_estimate_stays_while_the_engine_works() -> None:
    """A single call may take longer than an estimate lives without work."""
    assert measured(*[60.0] * 20).predicted_s(100, 5000.0, busy=True) == 60.0


def test_a_new_model_goes_by_what_the_one_before_took() -> None:
    before, new = measured(*[2.0] * 8), measured(1.0)
    new.inherit_estimates(before)
    assert new.predicted_s(100, 1000.0, busy=False) == 2.0
    assert measured(1.0).predicted_s(100, 1000.0, busy=False) == 0.0
    assert before.predicted_s(100, 1000.0, busy=False) == 2.0
