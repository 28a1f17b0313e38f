"""Asking a model on behalf of one caller, whatever the transport: limits, deadline, places.

Every surface that scores or embeds goes through here, so that limits, deadlines and the words for
texts that cannot be scored are the same in every dialect.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from runtime.errors import (
    BlankInput,
    DeviceLost,
    EngineError,
    EngineUnreachable,
    ForbiddenText,
    ModelClosed,
    NoTokens,
    OutOfMemory,
    Overloaded,
)
from runtime.postprocess import Embeddings, InputType, Ranking, Timing
from runtime.profile import Kind
from runtime.text import NO_LIMITS, TokenLimits, Truncate
from runtime.tokens import Token
from server.errors import ClientDisconnected, InvalidRequest
from server.observability import slowest
from server.service import Service
from server.settings import Settings
from server.tally import Outcome

T = TypeVar("T")
Answer = TypeVar("Answer", Ranking, Embeddings)
Place = tuple[str | int, ...]

# Requests without an answer that the engine is to blame for, whatever the caller is told.
_ENGINE_FAULTS = (EngineError, EngineUnreachable, OutOfMemory, DeviceLost)


@dataclass(frozen=True)
class Field:
    """A field of the caller's body: a list of texts, or one text `alone`. Where a text is wrapped
    in objects, `inside` leads to it."""

    name: str
    inside: Place = ()
    alone: bool = False

    def place(self, index: int) -> Place:
        """Where text number `index` stands."""
        return (self.name, *(() if self.alone else (index,)), *self.inside)


class Limit(NamedTuple):
    """How many texts one request may have, and the variable that says so."""

    texts: int
    variable: str

    def check(self, found: int, at: Place) -> None:
        """Raise InvalidRequest unless one request may have `found` texts."""
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
    """What one request to the model of `kind` may hold."""
    if kind == "rank":
        return Limit(settings.max_passages, "RERANK_MAX_PASSAGES")
    return Limit(settings.embed_max_inputs, "EMBED_MAX_INPUTS")


@contextmanager
def locating_errors(**fields: Field) -> Iterator[None]:
    """Tell of a text that cannot be scored where it stands in the caller's own body.

    `fields` have the runtime's names.
    """
    try:
        yield
    except (BlankInput, ForbiddenText, NoTokens) as error:
        name, _, number = error.what.partition("[")  # as in "query" and "passages[3]"
        index = int(number[:-1]) if number else 0
        message = f"this text{str(error).removeprefix(error.what)}"
        raise InvalidRequest("value_error", fields[name].place(index), message) from error


class Call:
    """One caller's request; made when it arrives, because its deadline counts from there.
    Turns at the engine are counted by `caller` (see `server.caller`).

    `answers` are those that the models gave so far. Methods raise RequestRefused or ServingError,
    which the surface's voice tells the caller.
    """

    def __init__(self, service: Service, timeout_s: float | None = None, caller: str = "") -> None:
        self.service = service
        self.caller = caller
        self.answers: list[Ranking | Embeddings] = []
        limit_s = service.settings.request_timeout_s
        wait_s = limit_s if timeout_s is None else min(limit_s, timeout_s)
        self.deadline = time.monotonic() + wait_s

    async def rank(
        self,
        query: str,
        passages: Sequence[str],
        truncate: Truncate = "NONE",
        *,
        query_at: Field = Field("query", alone=True),
        passages_at: Field = Field("documents"),
        limits: TokenLimits = NO_LIMITS,
        blanks: bool = False,
    ) -> Ranking:
        """Score the passages within `limits`; with `blanks`, texts may be blank."""
        self.check_count("rank", len(passages), passages_at)
        ranker = self.service.ranker
        with (
            ranker.in_use(),
            self._counted("rank"),
            locating_errors(query=query_at, passages=passages_at),
        ):
            return await self._answer(
                ranker.rank_async(
                    query,
                    passages,
                    truncate=truncate,
                    deadline=self.deadline,
                    caller=self.caller,
                    limits=limits,
                    blanks=blanks,
                )
            )

    async def rank_pairs(
        self,
        pairs: Sequence[tuple[str, str]],
        truncate: Truncate,
        *,
        queries_at: Field,
        passages_at: Field,
        limits: TokenLimits = NO_LIMITS,
        blanks: bool = False,
    ) -> Ranking:
        """Score (query, passage) pairs, as `rank`."""
        self.check_count("rank", len(pairs), passages_at)
        ranker = self.service.ranker
        with (
            ranker.in_use(),
            self._counted("rank"),
            locating_errors(queries=queries_at, passages=passages_at),
        ):
            return await self._answer(
                ranker.rank_pairs_async(
                    pairs,
                    truncate=truncate,
                    deadline=self.deadline,
                    limits=limits,
                    blanks=blanks,
                    caller=self.caller,
                )
            )

    async def embed(
        self,
        texts: Sequence[str],
        input_type: InputType | None,
        truncate: Truncate = "NONE",
        dimensions: int | None = None,
        *,
        input_at: Field,
        most_tokens: int | None = None,
        blanks: bool = False,
    ) -> Embeddings:
        """Embed the texts, each of at most `most_tokens` tokens; with `blanks`, they may be blank.
        Without `input_type` they are what EMBED_DEFAULT_INPUT_TYPE says."""
        self.check_count("embed", len(texts), input_at)
        embedder = self.service.embedder
        with (
            embedder.in_use(),
            self._counted("embed"),
            locating_errors(input=input_at),
        ):
            return await self._answer(
                embedder.embed_async(
                    texts,
                    input_type=input_type or self.service.settings.default_input_type,
                    truncate=truncate,
                    dimensions=dimensions,
                    most_tokens=most_tokens,
                    blanks=blanks,
                    deadline=self.deadline,
                    caller=self.caller,
                )
            )

    async def tokens(
        self,
        texts: Sequence[str],
        use: Callable[[Iterator[Iterator[Token]]], T],
        *,
        special: bool,
        at: Field,
        blanks: bool = False,
    ) -> T:
        """What `use` makes of the tokens of the texts, which are the first model's; `special` says
        whether they have what it adds; with `blanks`, texts may be blank. Not counted as a request
        to the model, whose engine has no part in it."""
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
        """Raise InvalidRequest unless one request to the model of `kind` may have so many texts."""
        limit_of(self.service.settings, kind).check(texts, (at.name,))

    def headers(self) -> dict[str, str]:
        """What the answers tell besides: x-truncated-passages when texts were cut, and
        server-timing."""
        headers: dict[str, str] = {}
        if truncated := sum(answer.truncated for answer in self.answers):
            headers["x-truncated-passages"] = str(truncated)
        if self.answers:
            # The words of the header that browsers draw (W3C Server Timing).
            stages = self._stages_ms(slowest(self.answers)).items()
            headers["server-timing"] = ", ".join(
                f"{name};dur={spent:.3f}" for name, spent in stages
            )
        return headers

    def _stages_ms(self, timing: Timing) -> dict[str, float]:
        """Milliseconds by stage, in the order of the stages."""
        return {
            "tokenize": timing.tokenize_ms,
            "queue": timing.queue_ms,
            "engine": timing.engine_ms,
        }

    @contextmanager
    def _counted(self, kind: Kind) -> Iterator[None]:
        """Count the block, which gets one answer, as one request to the model of `kind`."""
        served = self.service.served(kind)
        tally = served.tally
        tally.count_arrival()
        began = time.monotonic()
        try:
            yield
        except BaseException as error:
            seconds = time.monotonic() - began
            engine_fault = isinstance(error, _ENGINE_FAULTS)
            tally.count_failure(seconds, _outcome(error), engine_fault=engine_fault)
            raise
        answer = self.answers[-1]
        tally.count_success(time.monotonic() - began, answer)
        self.service.metrics.observe_stages(kind, answer.timing)

    async def _wait(self, work: Awaitable[T]) -> T:
        """The result of `work`, while the caller is there to take it."""
        return await work

    async def _answer(self, work: Awaitable[Answer]) -> Answer:
        """The answer of `work`, noted."""
        answer = await self._wait(work)
        self.answers.append(answer)
        return answer


def _outcome(error: BaseException) -> Outcome:
    """What became of a request that ended with `error`."""
    if isinstance(error, Overloaded | ModelClosed):
        return "refused"
    if isinstance(error, ClientDisconnected | asyncio.CancelledError):
        return "cancelled"
    return "failed"
