"""The address of requests, and their headers."""

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx

from rerank_client.errors import RerankError
from rerank_client.surface import RERANK, Surface

DEFAULT_URL = "http://localhost:8000"
_VARIABLE = "RERANK_URL"
_LAST_PORT = 65535
_FIRST_PRINTABLE, _LAST_PRINTABLE = "!", "~"


@dataclass(frozen=True)
class Target:
    """`url` includes the path of the `surface`; `name` is the same without user and password."""

    url: str = field(repr=False)
    name: str
    headers: Mapping[str, str] = field(repr=False)
    surface: Surface = RERANK


def find_target(base_url: str | None, api_key: str | None, surface: Surface = RERANK) -> Target:
    """The target from a client's arguments; `base_url` None: RERANK_URL, else localhost:8000.

    Raises RerankError for an address that is not HTTP and for a key that no header can contain.
    """
    source = "base_url" if base_url else _VARIABLE
    url = _http_url(source, base_url or os.environ.get(_VARIABLE) or DEFAULT_URL)
    url = url.copy_with(path=url.path.rstrip("/") + surface.path, query=None, fragment=None)
    headers = {
        "host": url.netloc.decode("ascii"),
        "content-type": "application/json",
        "accept": "application/json",
        # A compressed body can unpack to any size.
        "accept-encoding": "identity",
        "user-agent": "rerank-client",
    }
    if api_key:
        headers["authorization"] = f"Bearer {_token(api_key)}"
    if url.userinfo:
        user = base64.b64encode(f"{url.username}:{url.password}".encode()).decode("ascii")
        headers["authorization"] = f"Basic {user}"
    return Target(str(url), str(url.copy_with(userinfo=b"")), headers, surface)


def _http_url(source: str, text: str) -> httpx.URL:
    try:
        url = httpx.URL(text.strip())
    except (httpx.InvalidURL, UnicodeError):
        # Without the error: its text may contain a part of a password.
        raise RerankError(f"{source} is not a URL; wanted one like {DEFAULT_URL}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise RerankError(
            f"{source} does not begin with http:// or https:// and a host; "
            f"wanted one like {DEFAULT_URL}"
        )
    require_port(source, url)
    return url


def require_port(source: str, url: httpx.URL) -> None:
    """Raises RerankError for a port out of range."""
    if url.port is not None and not 0 < url.port <= _LAST_PORT:
        raise RerankError(f"{source} has port {url.port}, wanted 1 to {_LAST_PORT}")


def _token(api_key: str) -> str:
    """The key without the line end of a file; it is never logged."""
    token = api_key.strip()
    if not all(_FIRST_PRINTABLE <= character <= _LAST_PRINTABLE for character in token):
        raise RerankError("api_key holds characters that a bearer token cannot: wanted ASCII")
    return token
