"""grpc.health.v1.Health, for Kubernetes' gRPC probes and for clients that choose among servers.

Protocol: https://github.com/grpc/grpc/blob/master/doc/health-checking.md. It needs no key, like all
health routes. gRPC reads a message whole before its length is known, so only a few are read at a
time, slow ones are ended while others wait, and messages longer than a name are refused.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from server.errors import InvalidRequest
from server.kserve.arrivals import Arrivals, Context
from server.kserve.grpc_status import TooManyWatches, UnknownService
from server.kserve.messages import Messages
from server.service import Service

HEALTH = "grpc.health.v1.Health"
# HealthCheckResponse.ServingStatus
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3
# Service names have some dozen bytes, and arrive with the call.
_MOST_BYTES = 1 << 10
_READ_TIMEOUT_S = 10.0
# The most Watch streams at the same time, and how often each checks the status.
_MOST_WATCHES = 256
_LOOK_S = 1.0


class Health:
    """The health of the whole server (the empty name) and of `services`, which are healthy while
    the models are ready. Used in one event loop."""

    def __init__(self, messages: Messages, service: Service, services: frozenset[str]) -> None:
        self._messages = messages
        self._service = service
        self._known = services | {""}
        # 0: a message that does not arrive with its call is ended at once; callers need no key.
        self._arrivals = Arrivals(slow_s=0.0)
        self._watches = 0
        self._ending = asyncio.Event()

    async def check(self, context: Context, _: object) -> Any:
        """Answer the current status. Raises UnknownService."""
        status = self._status(await self._named(context))
        if status == _SERVICE_UNKNOWN:
            raise UnknownService
        return self._reply(status)

    async def watch(self, context: Context, _: object) -> None:
        """Send the current status and every change, until the client disconnects or `end` is
        called. Raises TooManyWatches."""
        with self._watching():
            name, last_status = await self._named(context), None
            while True:
                status = self._status(name)
                if status != last_status:
                    await context.write(self._reply(status))
                    last_status = status
                if self._ending.is_set():
                    return
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), _LOOK_S)

    def end(self) -> None:
        """End the Watch streams, for which the server's shutdown waits."""
        self._ending.set()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        if self._watches >= _MOST_WATCHES:
            raise TooManyWatches(self._watches)
        self._watches += 1
        try:
            yield
        finally:
            self._watches -= 1

    def _status(self, name: str) -> int:
        if name not in self._known:
            return _SERVICE_UNKNOWN
        return _SERVING if self._service.ready else _NOT_SERVING

    def _reply(self, status: int) -> Any:
        return self._messages["HealthCheckResponse"](status=status)

    async def _named(self, context: Context) -> str:
        """The service that a call names. Raises InvalidRequest, BodyTooSlow or
        ClientDisconnected."""
        message = await self._arrivals.read(context, time.monotonic() + _READ_TIMEOUT_S)
        if len(message) > _MOST_BYTES:
            found = f"found a message of {len(message)} bytes"
            raise InvalidRequest("too_long", (), f"{found}, wanted at most {_MOST_BYTES}")
        return str(self._messages.parse("HealthCheckRequest", message).service)
