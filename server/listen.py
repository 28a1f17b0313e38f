"""Listening sockets: bind ports, options for uvicorn, and a side listener."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from litestar.types import ASGIApp

from server.addresses import addresses_of, bind
from server.descriptors import API_SHARE, SIDE_SHARE
from server.protocol import limited_protocol
from server.settings import Settings, SettingsError

_log = logging.getLogger(__name__)

_BACKLOG = 2048
# Closing a model waits for its running engine calls (runtime.scheduling).
_SHUTDOWN_MARGIN_S = 10


def bind_port(host: str, port: int, setting: str) -> list[socket.socket]:
    """Listen on `port` at each of `host`'s addresses. Raises SettingsError, which names `setting`
    if the port is not available."""
    taken: list[socket.socket] = []
    for address in addresses_of(host):
        try:
            taken.append(bind(address, port))
            taken[-1].listen(_BACKLOG)
        except OSError as error:
            for other in taken:
                other.close()
            raise SettingsError(
                setting, f"port {port} ({error.strerror})", f"a port that is free on {address}"
            ) from None
        _log.info("listening on %s port %d", address, port)
    return taken


def connection_options(settings: Settings, share: float = API_SHARE) -> dict[str, Any]:
    """uvicorn's options for an HTTP listener: our protocol with its limits, and TLS. Its
    connections get `share` of the free file descriptors.

    Raises SettingsError for a certificate or key that cannot be used.
    """
    options: dict[str, Any] = {
        "http": limited_protocol(settings.header_timeout_s, share),
        "ws": "none",
        "access_log": False,
        "log_config": None,
        "server_header": False,
        # No header may change a client's address, by which fair queueing counts.
        "proxy_headers": False,
        # server.shutdown ends running requests before this; it is the last resort.
        "timeout_graceful_shutdown": settings.drain_timeout_s + _SHUTDOWN_MARGIN_S,
    }
    if settings.tls_cert is not None and settings.tls_key is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                settings.tls_cert, settings.tls_key
            )
        except OSError as error:  # ssl.SSLError is one
            raise SettingsError(
                "NIM_TLS_CERT_PATH",
                f"files that cannot be used ({error.strerror or error})",
                "a certificate chain and, in NIM_TLS_KEY_PATH, its private key in PEM",
            ) from None
        options |= {"ssl_certfile": settings.tls_cert, "ssl_keyfile": settings.tls_key}
    return options


class _SideServer(uvicorn.Server):
    """A uvicorn server that leaves signals to the main one."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield


class SideListener:
    """Serves `app` on its own sockets in the running event loop."""

    def __init__(self, app: ASGIApp, taken: list[socket.socket], settings: Settings) -> None:
        options = connection_options(settings, SIDE_SHARE)
        config = uvicorn.Config(app, lifespan="off", **options)
        self._server = _SideServer(config)
        self._task = asyncio.create_task(self._server.serve(sockets=taken))

    async def close(self) -> None:
        """Stop listening and wait for running requests."""
        self._server.should_exit = True
        await self._task
