"""Bearer keys: asked of every route but health when NIM_REQUIRE_AUTH is on.

Stands outside the router, so that unknown routes and wrong methods ask as well. A NIM itself
never checks bearers, and its clients send placeholders: hence off by default.
"""

import hmac

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from server.errors import KeyWanted, Voice, explain
from server.settings import Settings

OPEN_PATHS = frozenset(
    {"/health", "/v1/health/live", "/v1/health/ready", "/v2/health/live", "/v2/health/ready"}
)


class KeyGuard:
    """Lets a request through to `app` when it carries one of the accepted keys."""

    def __init__(self, app: ASGIApp, settings: Settings, voice: Voice) -> None:
        self._app = app
        self._keys = [key.encode() for key in settings.keys]
        failure = explain(KeyWanted(), settings)
        self._status = failure.status
        self._body = voice(failure)
        headers = {**failure.headers, "content-type": "application/json"}
        headers["content-length"] = str(len(self._body))
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or hand the request on."""
        if scope["type"] != ScopeType.HTTP or self._admits(scope):
            await self._app(scope, receive, send)
            return
        await send(
            {"type": "http.response.start", "status": self._status, "headers": self._headers}
        )
        await send({"type": "http.response.body", "body": self._body, "more_body": False})

    def _admits(self, scope: HTTPScope) -> bool:
        if not self._keys or scope["path"].rstrip("/") in OPEN_PATHS:
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, key = given[0].partition(b" ")
        # Every key is compared, so that the time taken tells nothing about which one is near.
        matches = [hmac.compare_digest(key.strip(), wanted) for wanted in self._keys]
        return scheme.lower() == b"bearer" and any(matches)
