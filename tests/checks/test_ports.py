"""A port that was handed out is not handed to another process before a server has bound it."""

import os
import secrets
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from checks import ports

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[deque[int]]:
    """A separate list: the ports of this process's servers stay reserved."""
    own: deque[int] = deque()
    monkeypatch.setattr(ports, "_held", own)
    yield own
    for name in own:
        os.close(name)


def refused(number: int) -> bool:
    """Whether another process is refused the port."""
    again = f"from checks import ports; ports._hold({number})"
    done = subprocess.run(
        [sys.executable, "-c", again], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or "Address already in use" in done.stderr, done.stderr
    return done.returncode != 0


def test_a_port_is_held_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_HELD", 2)
    number = secrets.randbits(60)  # not a port: nothing else on this machine uses it
    ports._hold(number)
    assert refused(number) == ports.has_names()
    for other in (1, 2):
        ports._hold(number + other)
    assert not refused(number)


def test_a_system_without_names_relies_on_chance(
    monkeypatch: pytest.MonkeyPatch, held: deque[int]
) -> None:
    monkeypatch.setattr(ports, "has_names", lambda: False)
    for _ in range(2):
        ports._hold(1)
    assert not held


def test_ports_are_different() -> None:
    found = ports.free_ports(10)
    assert len({*found}) == 10
    assert {*found} <= {*range(20_000, 32_768)}


def test_a_port_that_is_held_is_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def hold(port: int) -> None:
        if port % 2:
            raise OSError("held")

    monkeypatch.setattr(ports, "_hold", hold)
    assert not [port for port in ports.free_ports(10) if port % 2]
