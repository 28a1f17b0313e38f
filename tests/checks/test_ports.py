"""A port that was given away is not given to another process before a server has bound it."""

import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from checks import ports

ROOT = Path(__file__).resolve().parents[2]


def test_a_port_is_held_for_a_while() -> None:
    number = secrets.randbits(60)  # no port: nothing else on this machine asks for it
    again = f"from checks import ports; ports._hold({number})"
    ports._hold(number)
    with pytest.raises(OSError, match="in use"):
        ports._hold(number)
    done = subprocess.run(
        [sys.executable, "-c", again], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "Address already in use" in done.stderr
    for other in range(1, ports._HELD + 1):
        ports._hold(number + other)
    subprocess.run([sys.executable, "-c", again], cwd=ROOT, check=True)


def test_ports_are_different() -> None:
    found = ports.free_ports(10)
    assert len({*found, *ports.free_ports(10)}) == 20
    assert {*found} <= {*range(20_000, 32_768)}
