"""A surface: one public HTTP contract with its routes and its error format."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from litestar.types import ControllerRouterHandler, Scope, Send

from server.errors import ErrorFormat, Failure

# The key in the scope's state of a request's own error format, which replaces its path's.
ERROR_FORMAT = "error_format"


@dataclass(frozen=True, kw_only=True)
class Surface:
    """`paths` are the paths whose failures use `error_format`, unknown routes below them included.
    A path that ends in "/" stands for every path that begins with it."""

    controllers: tuple[ControllerRouterHandler, ...]
    error_format: ErrorFormat
    paths: tuple[str, ...]


def error_format_chooser(
    surfaces: Sequence[Surface], default: ErrorFormat
) -> Callable[[Scope], ErrorFormat]:
    """Returns a function that finds a request's error format: its own, its path's, or `default`."""
    formats = {path: surface.error_format for surface in surfaces for path in surface.paths}
    prefixes = sorted((path for path in formats if path.endswith("/")), key=len, reverse=True)

    def choose(scope: Scope) -> ErrorFormat:
        chosen: ErrorFormat | None = scope.get("state", {}).get(ERROR_FORMAT)
        if chosen is not None:
            return chosen
        path = re.sub("/+", "/", scope["path"]).rstrip("/")
        if path in formats:
            return formats[path]
        found = next((prefix for prefix in prefixes if f"{path}/".startswith(prefix)), None)
        return default if found is None else formats[found]

    return choose


async def send_failure(failure: Failure, error_format: ErrorFormat, send: Send) -> None:
    """Answer with `failure` from a middleware, outside the router."""
    answer = error_format(failure)
    headers = {
        **failure.headers,
        "content-type": "application/json",
        "content-length": str(len(answer.body)),
    }
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})
