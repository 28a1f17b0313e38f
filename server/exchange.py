"""One HTTP exchange: read the body, ask the model while the client waits, write the reply."""

import time
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar

import msgspec
from litestar import Response

from runtime.postprocess import Timing
from server.call import Call
from server.caller import http_caller
from server.characters import wider_bytes
from server.connection import cancel_on_disconnect, check_json, read_body, reserve_beside_body
from server.errors import AnyRequest, ErrorFormat, InvalidRequest
from server.json_items import decode_items
from server.json_size import decoded_bytes, most_values
from server.observability import ANSWERED
from server.service import Service
from server.surface import ERROR_FORMAT

T = TypeVar("T")

# Replies with more numbers than this are encoded in a thread, so that other requests go on.
MANY_NUMBERS = 50_000


class Exchange(Call):
    """A Call that arrived over HTTP, in `request`; its work is cancelled when the client
    disconnects. A route gets it by the name `exchange`."""

    def __init__(self, request: AnyRequest, service: Service) -> None:
        given = [value for name, value in request.scope["headers"] if name == b"authorization"]
        super().__init__(service, caller=http_caller(given, request.scope.get("client")))
        self.request = request
        # Milliseconds by HTTP stage, and when the current stage began.
        self._spent_ms: dict[str, float] = {}
        self._since = time.monotonic()
        request.scope["state"][ANSWERED] = self.answers

    def use_error_format(self, error_format: ErrorFormat) -> None:
        """Use `error_format` for failures of this request instead of its path's."""
        self.request.scope["state"][ERROR_FORMAT] = error_format

    async def body(self) -> bytes:
        """Read the body, of any content type."""
        settings = self.service.settings
        body = await read_body(self.request, settings.body_limit_bytes, settings.request_timeout_s)
        self._end_stage("read")
        return body

    async def json_body(self) -> bytes:
        """Read the body. Raises WrongContentType if its content type is not JSON."""
        check_json(self.request)
        return await self.body()

    async def decode(self, decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
        """Decode the JSON in `body`, the request's only one, once. A large body is decoded in time
        slices.

        Raises InvalidRequest with the place that does not fit, or before decoding if there are too
        many values. Raises Overloaded when the body budget has no room for the decoded form.
        """
        slices = self.service.body_budget.slices
        settings = self.service.settings
        texts = max(settings.max_passages, settings.embed_max_inputs)
        size = await decoded_bytes(body, most_values(texts), slices)
        self.reserve(size - len(body))
        return await decode_items(decoder, body, slices)

    def reserve(self, size: int) -> None:
        """Reserve `size` bytes beside the body, if positive. Raises Overloaded."""
        reserve_beside_body(self.request, size)

    async def reserve_raw(self, raw: memoryview, texts: Iterable[memoryview]) -> None:
        """Reserve what `texts`, when decoded out of `raw`, take beside the body, and wait for a
        time slice to decode them. Raises Overloaded."""
        slices = self.service.body_budget.slices
        self.reserve(await wider_bytes(texts, slices))
        await slices.before(len(raw))

    async def json(
        self, decoder: "msgspec.json.Decoder[T]", *, texts: str = "", hint: str = ""
    ) -> T:
        """Read and decode a JSON body; InvalidRequest names the place that does not fit. `texts` is
        a field in which other servers take token ids; `hint` is added to the message about it."""
        try:
            return await self.decode(decoder, await self.json_body())
        except InvalidRequest as error:
            if not texts or error.location[:1] != (texts,):
                raise
            message = (
                "wanted a text or a list of texts; token ids are not taken, as the model has a "
                f"tokenizer of its own{hint}"
            )
            raise InvalidRequest(error.problem, error.location, message) from error

    def reply(self, body: T) -> Response[T]:
        """The response, with the call's own headers."""
        return self.encoded_reply(msgspec.json.encode(body))

    def encoded_reply(
        self,
        body: bytes,
        *,
        media_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> Response[Any]:
        """`reply` for an encoded body, with `headers` as well."""
        self._end_stage("encode")
        return Response(body, media_type=media_type, headers={**self.headers(), **(headers or {})})

    async def _wait(self, work: Awaitable[T]) -> T:
        if not self.answers:
            self._end_stage("decode")
        answer = await cancel_on_disconnect(self.request, work)
        self._end_stage("model")
        return answer

    def _end_stage(self, name: str) -> None:
        """Add the time since the last stage to the stage `name`."""
        now = time.monotonic()
        self._spent_ms[name] = self._spent_ms.get(name, 0.0) + (now - self._since) * 1e3
        self._since = now

    def _stages_ms(self, timing: Timing) -> dict[str, float]:
        own = super()._stages_ms(timing)
        spent = self._spent_ms
        # "answer" is the time from the last engine call until this task runs again.
        answer = max(0.0, spent.get("model", 0.0) - sum(own.values()))
        before = {name: spent.get(name, 0.0) for name in ("read", "decode")}
        return {**before, **own, "answer": answer, "encode": spent.get("encode", 0.0)}
