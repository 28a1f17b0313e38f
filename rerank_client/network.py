"""What the environment says about the way to the server, and pools of connections on it."""

import ssl
from urllib.request import getproxies, proxy_bypass

import httpx

from rerank_client.errors import RerankError
from rerank_client.streams import AsyncBackend, Backend


class Network:
    """Certificates and proxy as the environment names them when the client is made."""

    def __init__(self, address: str) -> None:
        """`address` is the URL that is asked. Raises RerankError for variables of no use."""
        self._certificates = _certificates()
        scheme = httpx.URL(address).scheme
        try:
            self._proxy = _proxy(httpx.URL(address))
            self.pool()
        except httpx.InvalidURL as error:
            # Its text can hold a piece of a password.
            raise RerankError(f"{_variables(scheme)} is not a URL; {_WANTED_PROXY}") from error
        except (ValueError, ImportError) as error:
            raise RerankError(f"{_variables(scheme)}: {error}; {_WANTED_PROXY}") from error

    def pool(self) -> httpx.HTTPTransport:
        """Connections for the threads of one process."""
        pool = httpx.HTTPTransport(verify=self._certificates, proxy=self._proxy)
        # httpx has no argument for it.
        pool._pool._network_backend = Backend(pool._pool._network_backend)  # type: ignore[assignment]
        return pool

    def async_pool(self) -> httpx.AsyncHTTPTransport:
        """Connections for the tasks of one event loop."""
        pool = httpx.AsyncHTTPTransport(verify=self._certificates, proxy=self._proxy)
        pool._pool._network_backend = AsyncBackend(pool._pool._network_backend)  # type: ignore[assignment]
        return pool


_WANTED_PROXY = "wanted one like http://proxy:3128"


def _certificates() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except (OSError, ValueError) as error:
        raise RerankError(
            f"no certificates can be read ({error}); SSL_CERT_FILE and SSL_CERT_DIR "
            "name those of this machine, without them certifi's are taken"
        ) from error


def _proxy(url: httpx.URL) -> httpx.Proxy | None:
    named = getproxies()
    address = named.get(url.scheme) or named.get("all")
    if not address or any(proxy_bypass(host) for host in (url.host, url.netloc.decode())):
        return None
    proxy = httpx.Proxy(address if "://" in address else f"http://{address}")
    if not proxy.url.host:
        raise ValueError("it has no host")
    return proxy


def _variables(scheme: str) -> str:
    return f"the proxy that {scheme.upper()}_PROXY or ALL_PROXY names"
