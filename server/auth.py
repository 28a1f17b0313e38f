"""Who may ask: the keys (NIM_REQUIRE_AUTH) and the host names (RERANK_ALLOWED_HOSTS).

Both are checked before the router, so that unknown routes and wrong methods are refused as well;
health is open, because probes have no key and use addresses. A NIM never checks keys itself, and
its clients send placeholders, so that keys are off by default. Allowed hosts stop DNS rebinding, by
which a page on the internet reaches a server in its reader's network under a name of its own.
"""

import hmac
from collections.abc import Callable, Sequence

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from server.caller import bearer_of
from server.errors import AuthenticationRequired, ErrorFormat, RequestRefused, classify_error
from server.settings import Settings
from server.surface import send_failure

OPEN_PATHS = frozenset(
    {"/health", "/v1/health/live", "/v1/health/ready", "/v2/health/live", "/v2/health/ready"}
)


class WrongHost(RequestRefused):
    """A Host that is not in the list."""

    message = "found a Host that this server does not answer to"


class Keys:
    """The accepted keys; without any, every request is accepted."""

    def __init__(self, settings: Settings) -> None:
        self._keys = [key.encode() for key in settings.keys]

    def accepts(self, given: Sequence[bytes]) -> bool:
        """Whether `given`, the values of all authorization headers, is one accepted bearer."""
        found = bearer_of(given)
        # Every key is compared, so that the time reveals nothing about the keys.
        matches = [hmac.compare_digest(found, wanted) for wanted in self._keys]
        return not self._keys or (any(matches) and found != b"")


class AccessMiddleware:
    """Middleware that passes a request on to `app` if its Host is allowed and it has a key."""

    def __init__(
        self, app: ASGIApp, settings: Settings, error_format_of: Callable[[Scope], ErrorFormat]
    ) -> None:
        self._app = app
        self._settings = settings
        self._keys = Keys(settings)
        self._hosts = frozenset(settings.allowed_hosts)
        self._error_format_of = error_format_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 400 or 401, or pass the request on."""
        refusal = self._refusal(scope) if scope["type"] == ScopeType.HTTP else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        failure = classify_error(refusal, self._settings)
        await send_failure(failure, self._error_format_of(scope), send)

    def _refusal(self, scope: HTTPScope) -> RequestRefused | None:
        if scope["path"].rstrip("/") in OPEN_PATHS:
            return None
        if self._hosts:
            hosts = _values(scope, b"host")
            if len(hosts) != 1 or _name(hosts[0]) not in self._hosts:
                return WrongHost()
        return (
            None
            if self._keys.accepts(_values(scope, b"authorization"))
            else AuthenticationRequired()
        )


def _values(scope: HTTPScope, wanted: bytes) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == wanted]


def _name(host: bytes) -> str:
    """The host without its port; an IPv6 address keeps its brackets."""
    text = host.decode("latin-1").strip().lower()
    address, bracket, _ = text.partition("]")
    return address + bracket if bracket else text.partition(":")[0]
