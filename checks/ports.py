"""Ports for the servers that tests, checks and benchmarks start."""

import contextlib
import os
import random
import socket
from collections import deque

# Below what Linux, macOS and Windows hand to outgoing connections (from 32768 or 49152 up): a
# port from there may be a client's own before the server that it was meant for takes it.
_PORTS = range(20_000, 32_768)
# A server binds a while after its port was chosen. Meanwhile no other process of ours gets the
# port: this process holds a name for it, until it ends or until this many ports later.
_HELD = 64
_held: deque[int] = deque()


def free_ports(count: int) -> list[int]:
    """`count` different ports of 127.0.0.1 without a listener or a reservation."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            return found
        with contextlib.suppress(OSError), socket.socket() as probe:
            # As servers bind: a port in TIME_WAIT counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            _hold(port)
            found.append(port)
    raise OSError(f"{count} free ports between {_PORTS.start} and {_PORTS.stop} wanted")


def free_port() -> int:
    """One free port."""
    return free_ports(1)[0]


def has_names() -> bool:
    """Whether this system has abstract sockets, whose names reserve ports."""
    return hasattr(socket, "AF_UNIX") and os.path.exists("/proc/net/unix")


def _hold(port: int) -> None:
    """Reserve the port. Raises OSError when another process has reserved it.

    The name is one of Linux's abstract sockets: it belongs to the network namespace, as the port
    does, and ends with the process. Other systems have none, so collisions are possible there.
    """
    if not has_names():
        return
    with socket.socket(socket.AF_UNIX) as name:
        name.bind(f"\0open-rerank-port-{port}")
        _held.append(name.detach())
    while len(_held) > _HELD:
        os.close(_held.popleft())
