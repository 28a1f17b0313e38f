"""Asking a model on behalf of one caller, whatever the transport: limits, deadline, places.

Every surface that scores or embeds goes through here, so that limits, deadlines and the words for
texts that cannot be scored are the same in every dialect.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from runtime.errors import InputRejected
from runtime.postprocess import Embeddings, Floats, InputType, Ints, Ranking
from runtime.profile import Kind
from runtime.text import Truncate
from server.errors import NotValid
from server.observe import slowest
from server.service import Service

Answer = TypeVar("Answer", Ranking, Embeddings)
Place = tuple[str | int, ...]


class Call:
    """One caller's request; made when it arrives, because its deadline counts from there.

    `answers` are those that the models gave so far. Methods raise RequestRefused or ServingError,
    which the surface's voice tells the caller.
    """

    def __init__(self, service: Service, timeout_s: float | None = None) -> None:
        self.service = service
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
        query_at: Place = ("query",),
        passages_at: Place = ("documents",),
        inside: Place = (),
    ) -> Ranking:
        """Score the passages. A text that cannot be scored is reported at its place in the body:
        `query_at`, or `passages_at` and its index, each followed by `inside`."""
        self.check_count(len(passages), passages_at)
        places = {"query": (*query_at, *inside), "passages": passages_at}
        ranker = self.service.ranker
        with self._counted("rank"):
            work = ranker.rank_async(query, passages, truncate=truncate, deadline=self.deadline)
            return await self._answer(work, places, inside)

    async def rank_pairs(
        self,
        pairs: Sequence[tuple[str, str]],
        truncate: Truncate,
        *,
        query_at: Place,
        passages_at: Place,
    ) -> tuple[Floats, Ints]:
        """Logits float32 [n] and token counts int64 [n] of n (query, passage) pairs; those of one
        query are ranked together, and all queries at the same time."""
        self.check_count(len(pairs), passages_at)
        rows: dict[str, list[int]] = defaultdict(list)
        for index, (query, _) in enumerate(pairs):
            rows[query].append(index)
        places = {"query": query_at, "passages": passages_at}
        ranker = self.service.ranker

        def ask(query: str, found: list[int]) -> Awaitable[Ranking]:
            texts = [pairs[index][1] for index in found]
            work = ranker.rank_async(query, texts, truncate=truncate, deadline=self.deadline)
            return self._answer(work, places, rows=found)

        with self._counted("rank"):
            asked = [asyncio.ensure_future(ask(query, found)) for query, found in rows.items()]
            try:
                rankings = await asyncio.gather(*asked)
            finally:
                for task in asked:  # of a request that failed, the other queries too
                    task.cancel()
        logits = np.empty(len(pairs), dtype=np.float32)
        counts = np.empty(len(pairs), dtype=np.int64)
        for found, ranking in zip(rows.values(), rankings, strict=True):
            logits[found], counts[found] = ranking.logits, ranking.token_counts
        return logits, counts

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
        limit = self.service.settings.embed_max_inputs
        _check_count(len(texts), limit, input_at, "EMBED_MAX_INPUTS")
        embedder = self.service.embedder
        with self._counted("embed"):
            work = embedder.embed_async(
                texts,
                input_type=input_type,
                truncate=truncate,
                dimensions=dimensions,
                deadline=self.deadline,
            )
            return await self._answer(work, {"input": input_at})

    def check_count(self, passages: int, at: Place) -> None:
        """Raise NotValid unless one request may have so many passages."""
        limit = self.service.settings.max_passages
        _check_count(passages, limit, at, "RERANK_MAX_PASSAGES")

    @contextmanager
    def _counted(self, kind: Kind) -> Iterator[None]:
        """Count the block as one request to the model of `kind`, however many answers it takes."""
        tally = self.service.served(kind).tally
        began, before = time.monotonic(), len(self.answers)
        try:
            yield
        except BaseException:
            tally.count_failure(time.monotonic() - began)
            raise
        timing = slowest(self.answers[before:])
        tally.count_success(time.monotonic() - began, timing)

    async def _wait(self, work: Awaitable[Answer]) -> Answer:
        """The result of `work`, while the caller is there to take it."""
        return await work

    async def _answer(
        self,
        work: Awaitable[Answer],
        places: dict[str, Place],
        inside: Place = (),
        rows: Sequence[int] | None = None,
    ) -> Answer:
        """The answer of `work`, noted; `rows` are the places of its texts among the caller's."""
        try:
            answer = await self._wait(work)
        except InputRejected as error:
            raise _placed(error, places, inside, rows) from error
        self.answers.append(answer)
        return answer


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
    error: InputRejected, places: dict[str, Place], inside: Place, rows: Sequence[int] | None
) -> InputRejected | NotValid:
    """`error` with the place that the caller knows; "passages[3]" is the runtime's own word."""
    what = getattr(error, "what", None)
    if not isinstance(what, str):
        return error
    name, _, number = what.partition("[")
    place = places.get(name, (name,))
    if number:
        index = int(number[:-1])
        place = (*place, index if rows is None else rows[index], *inside)
    return NotValid("value_error", place, f"this text{str(error).removeprefix(what)}")
