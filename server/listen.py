"""Sockets: taking a port or naming the setting to change, and a listener beside uvicorn's."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from litestar.types import ASGIApp

from server.settings import SettingsError

_log = logging.getLogger(__name__)

_BACKLOG = 2048


def take_port(host: str, port: int, setting: str) -> socket.socket:
    """A socket that listens on `host`:`port`; SettingsError names `setting` when it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
        taken.listen(_BACKLOG)
    except OSError as error:
        taken.close()
        raise SettingsError(
            setting, f"port {port} ({error.strerror})", f"a port that is free on {host}"
        ) from None
    _log.info("listening on %s port %d", host, port)
    return taken


class _SideServer(uvicorn.Server):
    """A uvicorn server that leaves the process's signals to the main one."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield


class SideListener:
    """Serves `app` on an own socket inside the running event loop; requests that run when it
    closes have `patience_s` seconds to be answered."""

    def __init__(self, app: ASGIApp, taken: socket.socket, patience_s: int) -> None:
        config = uvicorn.Config(
            app,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=patience_s,
        )
        self._server = _SideServer(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[taken]))

    async def close(self) -> None:
        """Stop listening and wait for requests that are being answered."""
        self._server.should_exit = True
        await self._task
