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
