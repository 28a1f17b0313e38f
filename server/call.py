"""One call to a model for one caller, on any transport: limits, deadline, and places of errors.

Every surface that scores or embeds goes through here, so that limits, deadlines and messages about
texts are the same in every dialect.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from runtime.errors import Blame, ImageRejected, TextRejected
from runtime.postprocess import Embeddings, Ranking, Timing
from runtime.profile import Kind
from runtime.requests import EmbedRequest, Passage, RankRequest
from runtime.tokens import Token
from server.connection import Reservation
from server.errors import InvalidRequest, blame_of
from server.images import SentImage, decode_images
from server.observability import slowest
from server.service import Service
from server.settings import Settings
from server.tally import Outcome

T = TypeVar("T")
Answer = TypeVar("Answer", Ranking, Embeddings)
# A text as it is in a body, in some dialects also as an object.
Text = TypeVar("Text", str, str | dict[str, Any])
Place = tuple[str | int, ...]

# The outcome of a request that ended with an error, by whose fault it was; failed by others.
_OUTCOMES: dict[Blame, Outcome] = {"admission": "refused", "disconnect": "cancelled"}


@dataclass(frozen=True)
class Field:
    """A field of the caller's body: a list of texts, or one text if `alone`. `inside` is the path
    to a text that is wrapped in objects; `images` are those of the texts, by number, without their
    files."""

    name: str
    inside: Place = ()
    alone: bool = False
    images: Mapping[int, SentImage] = field(default_factory=dict)

    def place(self, index: int) -> Place:
        """The path to text number `index`."""
        return (self.name, *(() if self.alone else (index,)), *self.inside)


def listed(name: str, value: Text | list[Text]) -> tuple[list[Text], Field]:
    """The texts of the field `name`, which may be one text, and the field."""
    if isinstance(value, list):
        return value, Field(name)
    return [value], Field(name, alone=True)


class Limit(NamedTuple):
    """The most texts of one request, and the variable that sets it."""

    texts: int
    variable: str

    def check(self, found: int, at: Place) -> None:
        """Raise InvalidRequest for no texts or too many."""
        if found == 0:
            raise InvalidRequest("too_short", at, "found no texts, wanted at least 1")
        if found > self.texts:
            raise InvalidRequest(
                "too_long",
                at,
                f"found {found} texts, wanted at most {self.texts} in one request; "
                f"{self.variable} raises the limit",
            )


def limit_of(settings: Settings, kind: Kind) -> Limit:
    """The limit of one request to the model of `kind`."""
    if kind == "rank":
        return Limit(settings.max_passages, "RERANK_MAX_PASSAGES")
    return Limit(settings.embed_max_inputs, "EMBED_MAX_INPUTS")


@contextmanager
def locating_errors(**fields: Field) -> Iterator[None]:
    """Translate the runtime's errors about a text into InvalidRequest with its path in the body.

    `fields` maps the runtime's names to fields of the body.
    """
    try:
        yield
    except TextRejected as error:
        at, index = fields[error.field], error.index or 0
        if isinstance(error, ImageRejected):
            raise at.images[index].wrong(error.complaint) from error
        message = f"this text {error.complaint}"
        raise InvalidRequest("value_error", at.place(index), message) from error


class Call:
    """One caller's request. Create it on arrival, because its deadline counts from then.

    Fair queueing counts by `caller` (see `server.caller`). `answers` are the models' answers so
    far. `room` is its part of the body budget over gRPC. Methods raise RequestRefused or
    ServingError, which become the surface's error body.
    """

    def __init__(self, service: Service, timeout_s: float | None = None, caller: str = "") -> None:
        self.service = service
        self.caller = caller
        self.answers: list[Ranking | Embeddings] = []
        self.room: Reservation | None = None
        limit_s = service.settings.request_timeout_s
        wait_s = limit_s if timeout_s is None else min(limit_s, timeout_s)
        self.deadline = time.monotonic() + wait_s

    async def rank(
        self,
        request: RankRequest,
        *,
        query_at: Field = Field("query", alone=True),
        passages_at: Field = Field("documents"),
    ) -> Ranking:
        """Score the passages for the query, or for one query each."""
        self.check_count("rank", len(request.texts), passages_at)
        plain = self.service.settings.plain_special_tokens
        request = replace(request, deadline=self.deadline, caller=self.caller, plain=plain)
        ranker = self.service.ranker
        with (
            ranker.in_use(),
            self._counted("rank"),
            locating_errors(
                query=query_at,
                queries=query_at,
                passages=passages_at,
                instruction=Field("instruction", alone=True),
            ),
        ):
            return await self._answer(ranker.rank_async(request))

    async def embed(self, request: EmbedRequest, *, input_at: Field) -> Embeddings:
        """Embed the texts. `input_type` None means EMBED_DEFAULT_INPUT_TYPE."""
        self.check_count("embed", len(request.texts), input_at)
        input_type = request.input_type or self.service.settings.default_input_type
        request = replace(
            request, input_type=input_type, deadline=self.deadline, caller=self.caller
        )
        embedder = self.service.embedder
        with (
            embedder.in_use(),
            self._counted("embed"),
            locating_errors(input=input_at),
        ):
            return await self._answer(embedder.embed_async(request))

    async def tokens(
        self,
        texts: Sequence[str],
        use: Callable[[Iterator[Iterator[Token]]], T],
        *,
        special: bool,
        at: Field,
        blanks: bool = False,
    ) -> T:
        """Tokenise the texts with the first model's tokenizer and return what `use` makes of the
        tokens. `special` adds special tokens; with `blanks`, texts may be blank. Not counted as a
        request to the model, because the engine is not used."""
        model = self.service.primary.model
        with model.in_use(), locating_errors(inputs=at):
            return await self._wait(
                model.tokenize_async(
                    texts,
                    use,
                    add_special_tokens=special,
                    blanks=blanks,
                    deadline=self.deadline,
                    caller=self.caller,
                )
            )

    def check_count(self, kind: Kind, texts: int, at: Field) -> None:
        """Raise InvalidRequest unless a request to the model of `kind` may have that many texts."""
        limit_of(self.service.settings, kind).check(texts, (at.name,))

    async def passages(
        self, kind: Kind, texts: Sequence[str], images: Mapping[int, SentImage], at: Field
    ) -> tuple[list[str | Passage], Field]:
        """The `texts` of the field `at` for the model of `kind`, with the images that were sent
        with them, by number, and the field that names these. Nothing is decoded before all of them
        are looked at. Raises InvalidRequest, and Overloaded when the body budget has no room for
        their files."""
        found: list[str | Passage] = list(texts)
        if not images:
            return found, at
        if not self.service.served(kind).model.info.images:
            message = "this model takes text, not images"
            raise InvalidRequest("value_error", next(iter(images.values())).place, message)
        most_bytes = self.service.settings.image_bytes
        encoded = [image.base64(most_bytes) for image in images.values()]
        self.reserve(sum(one.size for one in encoded))
        files = await decode_images(encoded, self.service.body_budget.slices)
        for index, file in zip(images, files, strict=True):
            found[index] = Passage(texts[index], file)
        # Without their texts, which need not stay in memory until the answer.
        sent = {index: one._replace(text="") for index, one in images.items()}
        return found, replace(at, images=sent)

    def reserve(self, size: int) -> None:
        """Reserve `size` bytes beside what arrived, if positive. Raises Overloaded."""
        if self.room is not None:
            self.room.add(max(0, size))

    def headers(self) -> dict[str, str]:
        """Response headers: x-truncated-passages if texts were truncated, and server-timing."""
        headers: dict[str, str] = {}
        if truncated := sum(answer.truncated for answer in self.answers):
            headers["x-truncated-passages"] = str(truncated)
        if self.answers:
            # The format that browsers display (W3C Server Timing).
            stages = self._stages_ms(slowest(self.answers)).items()
            headers["server-timing"] = ", ".join(
                f"{name};dur={spent:.3f}" for name, spent in stages
            )
        return headers

    def _stages_ms(self, timing: Timing) -> dict[str, float]:
        """Milliseconds by stage, in order."""
        images = {"image": timing.image_ms} if timing.image_ms else {}
        return images | {
            "tokenize": timing.tokenize_ms,
            "queue": timing.queue_ms,
            "engine": timing.engine_ms,
        }

    @contextmanager
    def _counted(self, kind: Kind) -> Iterator[None]:
        """Count the block, which appends one answer, as one request to the model of `kind`."""
        served = self.service.served(kind)
        tally = served.tally
        tally.count_arrival()
        began = time.monotonic()
        try:
            yield
        except BaseException as error:
            blame = blame_of(error)
            tally.count_failure(
                time.monotonic() - began,
                _OUTCOMES.get(blame, "failed"),
                engine_fault=blame == "engine",
            )
            raise
        answer = self.answers[-1]
        tally.count_success(time.monotonic() - began, answer)
        self.service.metrics.observe_stages(kind, answer.timing)

    async def _wait(self, work: Awaitable[T]) -> T:
        """The result of `work`. HTTP overrides this to cancel it when the client disconnects."""
        return await work

    async def _answer(self, work: Awaitable[Answer]) -> Answer:
        """Await the answer of `work` and append it to `answers`."""
        answer = await self._wait(work)
        self.answers.append(answer)
        return answer
