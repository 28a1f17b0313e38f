"""Ports for the servers that tests, checks and benchmarks start."""

import contextlib
import random
import socket

# Below what Linux, macOS and Windows hand to outgoing connections (from 32768 or 49152 up): a
# port from there may be a client's own before the server that it was meant for takes it.
_PORTS = range(20_000, 32_768)


def free_ports(count: int) -> list[int]:
    """`count` different ports of 127.0.0.1 that nobody listens on."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            return found
        with contextlib.suppress(OSError), socket.socket() as probe:
            # As servers bind: what an ended one left in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found.append(port)
    raise OSError(f"{count} free ports between {_PORTS.start} and {_PORTS.stop} wanted")


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]
