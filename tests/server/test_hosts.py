"""What counts as the name in a Host header."""

import pytest

from server.auth import _name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (b"Rank.me", "rank.me"),
        (b"rank.me:8000", "rank.me"),
        (b"[::1]", "[::1]"),
        (b"[::1]:8000", "[::1]"),
        (b"10.0.0.1:80", "10.0.0.1"),
    ],
)
def test_the_port_is_no_part_of_the_name(given: bytes, name: str) -> None:
    assert _name(given) == name
