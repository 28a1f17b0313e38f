"""Allowed hosts middleware (RERANK_ALLOWED_HOSTS): it refuses requests with another Host header.

This stops DNS rebinding, by which a page on the internet reaches a server in its reader's network
under a name of its own.
"""

from collections.abc import Callable

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from server.auth import OPEN_PATHS
from server.errors import ErrorFormat, RequestRefused, classify_error
from server.settings import Settings
from server.surface import send_failure


class WrongHost(RequestRefused):
    """A Host that is not in the list."""

    message = "found a Host that this server does not answer to"


class AllowedHostsMiddleware:
    """Middleware that passes a request on to `app` if its Host is allowed. Health is open, because
    probes use addresses."""

    def __init__(
        self, app: ASGIApp, settings: Settings, error_format_of: Callable[[Scope], ErrorFormat]
    ) -> None:
        self._app = app
        self._allowed = frozenset(settings.allowed_hosts)
        self._error_format_of = error_format_of
        self._failure = classify_error(WrongHost(), settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 400 or pass the request on."""
        if scope["type"] != ScopeType.HTTP or not self._allowed or self._is_allowed(scope):
            await self._app(scope, receive, send)
            return
        await send_failure(self._failure, self._error_format_of(scope), send)

    def _is_allowed(self, scope: HTTPScope) -> bool:
        if scope["path"].rstrip("/") in OPEN_PATHS:
            return True
        given = [value for name, value in scope["headers"] if name == b"host"]
        return len(given) == 1 and _name(given[0]) in self._allowed


def _name(host: bytes) -> str:
    """The host without its port; an IPv6 address keeps its brackets."""
    text = host.decode("latin-1").strip().lower()
    address, bracket, _ = text.partition("]")
    return address + bracket if bracket else text.partition(":")[0]
