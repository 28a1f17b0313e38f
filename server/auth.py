"""Authentication middleware: with NIM_REQUIRE_AUTH, every route but health needs a bearer key.

It runs before the router, so that unknown routes and wrong methods need a key as well. A NIM never
checks keys itself, and its clients send placeholders, so it is off by default.
"""

import hmac
from collections.abc import Callable, Sequence

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from server.errors import AuthenticationRequired, ErrorFormat, classify_error
from server.settings import Settings
from server.surface import send_failure

OPEN_PATHS = frozenset(
    {"/health", "/v1/health/live", "/v1/health/ready", "/v2/health/live", "/v2/health/ready"}
)


class Keys:
    """The accepted keys; without any, every request is accepted."""

    def __init__(self, settings: Settings) -> None:
        self._keys = [key.encode() for key in settings.keys]

    def accepts(self, given: Sequence[bytes]) -> bool:
        """Whether `given`, the values of all authorization headers, is one accepted bearer."""
        if not self._keys:
            return True
        if len(given) != 1:
            return False
        scheme, _, key = given[0].partition(b" ")
        # Every key is compared, so that the time reveals nothing about the keys.
        matches = [hmac.compare_digest(key.strip(), wanted) for wanted in self._keys]
        return scheme.lower() == b"bearer" and any(matches)


class AuthMiddleware:
    """Middleware that passes a request on to `app` if it has an accepted key."""

    def __init__(
        self, app: ASGIApp, settings: Settings, error_format_of: Callable[[Scope], ErrorFormat]
    ) -> None:
        self._app = app
        self._keys = Keys(settings)
        self._error_format_of = error_format_of
        self._failure = classify_error(AuthenticationRequired(), settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or pass the request on."""
        if scope["type"] != ScopeType.HTTP or self._is_allowed(scope):
            await self._app(scope, receive, send)
            return
        await send_failure(self._failure, self._error_format_of(scope), send)

    def _is_allowed(self, scope: HTTPScope) -> bool:
        if scope["path"].rstrip("/") in OPEN_PATHS:
            return True
        return self._keys.accepts([v for name, v in scope["headers"] if name == b"authorization"])
