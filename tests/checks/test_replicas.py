"""The formula of deploy/README.md."""

import pytest

from checks.replicas import replicas_needed


@pytest.mark.parametrize(
    ("requests_per_s", "tokens", "tokens_per_s", "wanted"),
    [
        (1, 7000, 10_000, 1),  # busy for exactly 0.7 of the time
        (1, 7001, 10_000, 2),
        (10, 40 * 178, 10_970, 10),
        (0.01, 1, 10_000, 1),
    ],
)
def test_as_many_as_are_busy_for_seven_tenths(
    requests_per_s: float, tokens: int, tokens_per_s: int, wanted: int
) -> None:
    assert replicas_needed(requests_per_s, tokens, tokens_per_s) == wanted
