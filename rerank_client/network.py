"""Network settings of the environment: certificates and proxies."""

import ssl
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from rerank_client.errors import RerankError
from rerank_client.target import require_port


class Network:
    """Certificates (for TLS) and proxy, as the environment sets them when the client is made."""

    def __init__(self, address: str, *, tls_in_tls: bool) -> None:
        """`address` is the server's URL; `tls_in_tls`: TLS inside a proxy's TLS is supported.
        Raises RerankError for unusable variables."""
        url = httpx.URL(address)
        proxy = _proxy(url)
        schemes = [url.scheme, *([proxy.url.scheme] if proxy else [])]
        if schemes == ["https", "https"] and not tls_in_tls:
            raise RerankError(
                f"{_variables(url)} is an https proxy; RerankClient reaches an https:// server "
                "through an http:// proxy only, AsyncRerankClient through both"
            )
        self.certificates = _certificates() if "https" in schemes else None
        self.proxy = _in_httpcore(proxy, self.certificates) if proxy else None


def _certificates() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except (OSError, ValueError) as error:
        raise RerankError(
            f"no certificates can be read ({error}); SSL_CERT_FILE and SSL_CERT_DIR "
            "name those of this machine, without them certifi's are used"
        ) from error


def _proxy(url: httpx.URL) -> httpx.Proxy | None:
    named = getproxies()
    address = named.get(url.scheme) or named.get("all")
    if not address or any(proxy_bypass(host) for host in (url.host, url.netloc.decode())):
        return None
    try:
        proxy = httpx.Proxy(address if "://" in address else f"http://{address}")
        require_port(_variables(url), proxy.url)
    except (httpx.InvalidURL, ValueError):
        # Without the error: its text may contain a part of a password.
        raise RerankError(f"{_variables(url)} is not a URL; {_WANTED_PROXY}") from None
    if proxy.url.scheme not in ("http", "https") or not proxy.url.host:
        raise RerankError(f"{_variables(url)} has no host or no http://; {_WANTED_PROXY}")
    return proxy


def _in_httpcore(proxy: httpx.Proxy, certificates: ssl.SSLContext | None) -> httpcore.Proxy:
    url = httpcore.URL(
        scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=b"/"
    )
    tls = certificates if proxy.url.scheme == "https" else None
    return httpcore.Proxy(url, auth=proxy.raw_auth, ssl_context=tls)


_WANTED_PROXY = "wanted one like http://proxy:3128"


def _variables(url: httpx.URL) -> str:
    return f"the proxy that {url.scheme.upper()}_PROXY or ALL_PROXY names"
