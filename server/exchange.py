"""One HTTP exchange with a model: the body in, the model's answer while the caller waits, out.

Every surface that scores or embeds goes through here, so that limits, deadlines, truncation
headers, log lines and hang-ups are the same in every dialect.
"""

import time
from collections.abc import Sequence
from typing import TypeVar

import msgspec
from litestar import Response

from runtime.errors import InputRejected
from runtime.postprocess import Embeddings, InputType, Ranking, Timing
from runtime.text import Truncate
from server.connection import answer_or_leave, check_json, read_body
from server.errors import AnyRequest, NotValid, Voice
from server.json_body import decode
from server.observe import ANSWERED, slowest
from server.service import Service
from server.surface import VOICE

T = TypeVar("T")
Place = tuple[str | int, ...]


class Exchange:
    """A request on its way; made when it arrives, because its deadline counts from there.

    Methods raise RequestRefused or ServingError, which the surface's voice tells the caller.
    """

    def __init__(self, request: AnyRequest, service: Service) -> None:
        self.deadline = time.monotonic() + service.settings.request_timeout_s
        self._request = request
        self._service = service
        self._answers: list[Ranking | Embeddings] = []
        self._cut = 0

    def speak(self, voice: Voice) -> None:
        """Let failures of this request speak with `voice` instead of its path's."""
        self._request.scope["state"][VOICE] = voice

    async def body(self) -> bytes:
        """The bytes of the body, whatever they are."""
        settings = self._service.settings
        return await read_body(self._request, settings.body_limit_bytes, settings.request_timeout_s)

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

    async def rank(
        self,
        query: str,
        passages: Sequence[str],
        truncate: Truncate = "NONE",
        *,
        query_at: Place = ("query",),
        passages_at: Place = ("documents",),
        inside: Place = (),
    ) -> Ranking:
        """Score the passages. A text that cannot be scored is reported at its place in the body:
        `query_at`, or `passages_at` and its index, each followed by `inside`."""
        self.check_count(len(passages), passages_at)
        places = {"query": (*query_at, *inside), "passages": passages_at}
        work = self._service.rank(query, passages, truncate, self.deadline)
        try:
            ranking = await answer_or_leave(self._request, work)
        except InputRejected as error:
            raise _placed(error, places, inside) from error
        self._note(ranking)
        return ranking

    async def embed(
        self,
        texts: Sequence[str],
        input_type: InputType | None,
        truncate: Truncate = "NONE",
        dimensions: int | None = None,
        *,
        input_at: Place = ("input",),
    ) -> Embeddings:
        """Embed the texts; one that cannot be embedded is reported at `input_at` and its index."""
        limit = self._service.settings.embed_max_inputs
        _check_count(len(texts), limit, input_at, "EMBED_MAX_INPUTS")
        work = self._service.embed(texts, input_type, truncate, dimensions, self.deadline)
        try:
            embeddings = await answer_or_leave(self._request, work)
        except InputRejected as error:
            raise _placed(error, {"input": input_at}, ()) from error
        self._note(embeddings)
        return embeddings

    def check_count(self, passages: int, at: Place) -> None:
        """Raise NotValid unless one request may have so many passages."""
        limit = self._service.settings.max_passages
        _check_count(passages, limit, at, "RERANK_MAX_PASSAGES")

    def count_truncated(self, texts: int) -> None:
        """Tell of `texts` that were cut before they came to a model."""
        self._cut += texts

    def reply(
        self,
        body: bytes,
        *,
        media_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> Response[bytes]:
        """The answer, with `x-truncated-passages` when texts were cut, and `server-timing`."""
        told = {}
        if truncated := self._cut + sum(answer.truncated for answer in self._answers):
            told["x-truncated-passages"] = str(truncated)
        if self._answers:
            told["server-timing"] = _server_timing(slowest(self._answers))
        return Response(body, media_type=media_type, headers={**told, **(headers or {})})

    def _note(self, answer: Ranking | Embeddings) -> None:
        self._answers.append(answer)
        self._request.scope["state"][ANSWERED] = self._answers


def _server_timing(timing: Timing) -> str:
    """The stages in the words of the header that browsers draw (W3C Server Timing)."""
    stages = {
        "tokenize": timing.tokenize_ms,
        "queue": timing.queue_ms,
        "engine": timing.engine_ms,
    }
    return ", ".join(f"{name};dur={spent:.3f}" for name, spent in stages.items())


def _check_count(found: int, limit: int, at: Place, variable: str) -> None:
    if found == 0:
        raise NotValid("too_short", at, "found no texts, wanted at least 1")
    if found > limit:
        raise NotValid(
            "too_long",
            at,
            f"found {found} texts, wanted at most {limit} in one request; {variable} raises the "
            "limit",
        )


def _placed(
    error: InputRejected, places: dict[str, Place], inside: Place
) -> InputRejected | NotValid:
    """`error` with the place that the caller knows; "passages[3]" is the runtime's own word."""
    what = getattr(error, "what", None)
    if not isinstance(what, str):
        return error
    name, _, index = what.partition("[")
    place = places.get(name, (name,))
    location = (*place, int(index[:-1]), *inside) if index else place
    return NotValid("value_error", location, f"this text{str(error).removeprefix(what)}")
