"""File descriptors: the number of connections that each listener may have."""

import os
import resource

# More connections than one process can use.
_MOST_CONNECTIONS = 4096
# Descriptors that are not connections: open files, sockets of the event loop.
_SPARE_DESCRIPTORS = 24
_FEWEST_CONNECTIONS = 4
# Each listener's share of the free descriptors: the API's, gRPC's, and each of the two side ports.
# They add up to no more than 1, so that no listener starves another.
API_SHARE = 1 / 2
GRPC_SHARE = 1 / 4
SIDE_SHARE = 1 / 8
_MOST_DESCRIPTORS = 4 * _MOST_CONNECTIONS


def most_connections(share: float, beside: int = 0) -> int:
    """The most connections of a listener with this share of the free file descriptors, less
    `beside` that it needs for other connections."""
    found = int(_free_descriptors() * share) - beside
    return max(_FEWEST_CONNECTIONS, min(_MOST_CONNECTIONS, found))


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to what the process may have and can use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY:
        wanted = max(soft, min(allowed, _MOST_DESCRIPTORS))
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _free_descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_DESCRIPTORS
    return soft - len(os.listdir("/proc/self/fd")) - _SPARE_DESCRIPTORS
