"""The addresses that all ports listen on, the same for HTTP and gRPC."""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from server.settings import SettingsError

_IPV4 = "0.0.0.0"
_BOTH = "::"
# No IPv6 on this machine, or another process has the port.
_NOT_OURS = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EADDRINUSE)
# The prefix of an IPv4 address in IPv6 form.
_MAPPED = "::ffff:"


def addresses_of(host: str) -> list[str]:
    """This machine's numeric addresses for `host`.

    0.0.0.0 is every IPv4 address, :: every IPv4 and IPv6 address. A name stands for all of its
    addresses on this machine. Raises SettingsError when there is none.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        numbers = dict.fromkeys(_number(place) for *_, place in found)
        here = [number for number in numbers if _is_here(number)]
    except (OSError, UnicodeError):
        here = []
    if not here:
        raise SettingsError(
            "NIM_BIND_ADDR",
            f"the host {host!r}, which is none of this machine's addresses",
            "0.0.0.0 (all of IPv4), [::] (all of IPv4 and IPv6), or an address or name of this "
            "machine",
        )
    return here


def bind(address: str, port: int) -> socket.socket:
    """Bind a socket to `address` and `port` and return it. Raises OSError."""
    bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address == _BOTH:  # independent of the system's default
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind((address, port))
    except OSError:
        bound.close()
        raise
    return bound


@contextmanager
def only_at(address: str, port: int) -> Iterator[None]:
    """Within the block, keep gRPC from listening on more than `address`.

    gRPC has no option for IPv4 alone: it takes 0.0.0.0 for all addresses of both families, unless
    the port is taken on IPv6. So the port is taken on IPv6 meanwhile.
    """
    with ExitStack() as stack:
        if address == _IPV4:
            try:
                held = stack.enter_context(socket.socket(socket.AF_INET6))
                held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                # Recently closed connections do not matter; a listening socket makes gRPC skip it.
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                held.bind((_BOTH, port))
                held.listen(1)
            except OSError as error:
                if error.errno not in _NOT_OURS:
                    raise
        yield


def _number(place: Any) -> str:
    """The numeric address of a getaddrinfo result; IPv4 in IPv6 form is turned into IPv4."""
    number = socket.getnameinfo(place, socket.NI_NUMERICHOST)[0]
    return number.removeprefix(_MAPPED) if "." in number else number


def _is_here(address: str) -> bool:
    try:
        bind(address, 0).close()
    except OSError:
        return False
    return True
