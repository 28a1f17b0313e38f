"""Where all ports listen: the addresses that a host stands for, the same for HTTP and gRPC."""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from server.settings import SettingsError

_IPV4 = "0.0.0.0"
_BOTH = "::"
# No IPv6 here, or somebody else has taken the port.
_NOT_OURS = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EADDRINUSE)
# Before an address of IPv4 in IPv6's form.
_MAPPED = "::ffff:"


def addresses_of(host: str) -> list[str]:
    """This machine's addresses for `host`, as numbers.

    0.0.0.0 is every address of IPv4, :: every one of IPv4 and IPv6. A name stands for all that it
    has here. Raises SettingsError when there is none.
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
    """A socket that is bound there. Raises OSError."""
    bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address == _BOTH:  # whatever the system's default is
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind((address, port))
    except OSError:
        bound.close()
        raise
    return bound


@contextmanager
def only_at(address: str, port: int) -> Iterator[None]:
    """Keep gRPC, which is to listen there within the block, from listening elsewhere.

    It has no option for IPv4 alone: 0.0.0.0 is every address of both families to it, and of IPv4
    only where the port is taken in IPv6.
    """
    with ExitStack() as stack:
        if address == _IPV4:
            try:
                held = stack.enter_context(socket.socket(socket.AF_INET6))
                held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                # Connections that ended there lately do not matter; gRPC minds one that listens.
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                held.bind((_BOTH, port))
                held.listen(1)
            except OSError as error:
                if error.errno not in _NOT_OURS:
                    raise
        yield


def _number(place: Any) -> str:
    """The address of what getaddrinfo found; one of IPv4 as such, whatever it was written as."""
    number = socket.getnameinfo(place, socket.NI_NUMERICHOST)[0]
    return number.removeprefix(_MAPPED) if "." in number else number


def _is_here(address: str) -> bool:
    try:
        bind(address, 0).close()
    except OSError:
        return False
    return True
