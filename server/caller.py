"""The caller of a request, by which fair queueing counts: a bearer, else the peer's address.

Without NIM_REQUIRE_AUTH the bearer is not checked. It still separates callers who send different
ones.
"""

import hashlib
from collections.abc import Sequence
from urllib.parse import unquote

# Size of a bearer's hash. The hash stays in memory for a while, the bearer does not.
_HASH_BYTES = 16


def http_caller(authorization: Sequence[bytes], client: tuple[str, int] | None) -> str:
    """The caller of a request with these authorization headers, from this address and port."""
    return _hash(bearer_of(authorization)) or (client[0] if client else "")


def grpc_caller(authorization: Sequence[bytes], peer: str) -> str:
    """The caller of a gRPC call with this metadata. `peer` is in gRPC's format: ipv4:10.0.0.1:5000,
    ipv6:[::1]:5000, with %5B for a bracket, or unix:PATH."""
    family, _, address = unquote(peer).partition(":")
    host = address.rpartition(":")[0].strip("[]") if family.startswith("ipv") else ""
    return _hash(bearer_of(authorization)) or host


def bearer_of(authorization: Sequence[bytes]) -> bytes:
    """The bearer in these authorization headers; empty without one, or with several headers."""
    scheme, _, key = authorization[0].partition(b" ") if len(authorization) == 1 else (b"",) * 3
    return key.strip() if scheme.lower() == b"bearer" else b""


def _hash(bearer: bytes) -> str:
    return hashlib.blake2b(bearer, digest_size=_HASH_BYTES).hexdigest() if bearer else ""
