"""One HTTP exchange: the body in, a model's answer while the caller waits, the reply out."""

from collections.abc import Awaitable
from typing import TypeVar

import msgspec
from litestar import Response

from server.call import Answer, Call
from server.connection import answer_or_leave, check_json, read_body
from server.errors import AnyRequest, Voice
from server.json_body import decode
from server.observe import ANSWERED
from server.service import Service
from server.surface import VOICE

T = TypeVar("T")

# More numbers than this are written in a thread, so that other requests go on meanwhile.
MANY_NUMBERS = 50_000


class Exchange(Call):
    """A call that came as an HTTP request; a caller who hangs up takes the work along."""

    def __init__(self, request: AnyRequest, service: Service) -> None:
        super().__init__(service)
        self._request = request
        request.scope["state"][ANSWERED] = self.answers

    def speak(self, voice: Voice) -> None:
        """Let failures of this request speak with `voice` instead of its path's."""
        self._request.scope["state"][VOICE] = voice

    async def body(self) -> bytes:
        """The bytes of the body, whatever they are."""
        settings = self.service.settings
        return await read_body(
            self._request,
            self.service.bodies,
            settings.body_limit_bytes,
            settings.request_timeout_s,
        )

    async def json_body(self) -> bytes:
        """The bytes of a body that must not say that it is anything but JSON."""
        check_json(self._request)
        return await self.body()

    def decode(self, decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
        """The JSON in `body` as `decoder` reads it; NotValid names the place that does not fit."""
        return decode(decoder, body)

    async def json(self, decoder: "msgspec.json.Decoder[T]") -> T:
        """The JSON body as `decoder` reads it; NotValid names the place that does not fit."""
        return self.decode(decoder, await self.json_body())

    def reply(
        self,
        body: bytes,
        *,
        media_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> Response[bytes]:
        """The answer, with what `headers()` tells and `headers`."""
        return Response(body, media_type=media_type, headers={**self.headers(), **(headers or {})})

    async def _wait(self, work: Awaitable[Answer]) -> Answer:
        return await answer_or_leave(self._request, work)
