"""What a surface is: one public HTTP contract, its routes, its error voice, its documentation."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from litestar.types import ControllerRouterHandler, Scope, Send

from server.errors import Failure, Voice
from server.openapi import Operation

# Where a request that speaks another voice than its path's leaves it, in the scope's state.
VOICE = "voice"


@dataclass(frozen=True, kw_only=True)
class Surface:
    """`paths` are those whose failures speak with `voice`, unknown routes below them included;
    one that ends in "/" stands for every path that begins with it."""

    controllers: tuple[ControllerRouterHandler, ...]
    operations: tuple[Operation, ...]
    voice: Voice
    paths: tuple[str, ...]


def voice_chooser(surfaces: Sequence[Surface], default: Voice) -> Callable[[Scope], Voice]:
    """A function that finds the voice for a request: its own, else its path's, else `default`."""
    voices = {path: surface.voice for surface in surfaces for path in surface.paths}
    prefixes = sorted((path for path in voices if path.endswith("/")), key=len, reverse=True)

    def choose(scope: Scope) -> Voice:
        chosen: Voice | None = scope.get("state", {}).get(VOICE)
        if chosen is not None:
            return chosen
        path = re.sub("/+", "/", scope["path"]).rstrip("/")
        if path in voices:
            return voices[path]
        found = next((prefix for prefix in prefixes if f"{path}/".startswith(prefix)), None)
        return default if found is None else voices[found]

    return choose


async def send_failure(failure: Failure, voice: Voice, send: Send) -> None:
    """Answer with `failure` from outside the router."""
    spoken = voice(failure)
    headers = {
        **failure.headers,
        "content-type": "application/json",
        "content-length": str(len(spoken.body)),
    }
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": spoken.status, "headers": raw})
    await send({"type": "http.response.body", "body": spoken.body, "more_body": False})
