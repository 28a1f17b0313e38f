"""File descriptors: how many connections each listener may have with those that are free."""

import os
import resource

# More connections than one process has use for.
_MOST_CONNECTIONS = 4096
# File descriptors that are not connections: files that are opened, sockets of the event loop.
_SPARE_DESCRIPTORS = 24
_FEWEST_CONNECTIONS = 4
# What each listener gets of those that are free: the API's, gRPC's, and each of the two beside
# them. Together no more than all, so that none takes what another needs to answer.
API_SHARE = 1 / 2
GRPC_SHARE = 1 / 4
SIDE_SHARE = 1 / 8
_MOST_DESCRIPTORS = 4 * _MOST_CONNECTIONS


def most_connections(share: float, beside: int = 0) -> int:
    """How many connections a listener may have that gets this share of the file descriptors that
    are free, `beside` of them for something else."""
    found = int(_free_descriptors() * share) - beside
    return max(_FEWEST_CONNECTIONS, min(_MOST_CONNECTIONS, found))


def raise_descriptor_limit() -> None:
    """Let the process open as many files as it is allowed to and has use for."""
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
