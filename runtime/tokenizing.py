"""A model's threads for tokenising, and how many tokens it expects of a text."""

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from runtime.batch import distinct
from runtime.errors import EngineError, ModelClosed
from runtime.postprocess import Ints
from runtime.text import NO_LIMITS, Check, Encoding, Encodings, TokenLimits

T = TypeVar("T")

# How much the latest request moves the estimate of tokens per character.
_SHARE_OF_LATEST = 0.1
# Before any was measured: tokens of real text have about four characters.
_TOKENS_PER_CHARACTER = 0.25


@dataclass(frozen=True)
class Work:
    """What a request asks for, before anything is done for it: what turns its texts into encodings
    while its Check lets it, until when it is to be answered (seconds of time.monotonic()), and
    whose turn it is. `characters` int64 [rows, 2] are those of each row's query and passage;
    `limits` say how many tokens of them count."""

    characters: Ints
    encode: Callable[[Check], Encodings]
    deadline: float | None
    caller: str
    limits: TokenLimits = NO_LIMITS

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.characters)


def lengths(queries: Sequence[str], passages: Sequence[str]) -> Ints:
    """The characters int64 [n, 2] of n queries and passages."""
    columns = [np.fromiter(map(len, texts), np.int64, len(texts)) for texts in (queries, passages)]
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Encoded:
    """A request's encodings, those `rows` of them that differ, and of each encoding its place among
    these, int64 [n]."""

    encodings: Encodings
    rows: list[Encoding]
    places: Ints


class TokenizerPool:
    """Threads of one model, so that no other work of the process keeps its texts waiting."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(thread_name_prefix="tokenizer")
        # Where every token becomes an object, one request at a time may take that memory.
        self._listing_thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer-listing")
        # Measured, so that a full queue refuses texts before they are tokenised.
        self._tokens_per_character: float | None = None

    def estimate(self, characters: Ints, limits: TokenLimits, most: int) -> int:
        """About how many tokens rows have together, each at most `most`; `characters` and `limits`
        as Work has them."""
        bounds = [math.inf if limit is None else limit for limit in (limits.query, limits.passage)]
        tokens = characters * (self._tokens_per_character or _TOKENS_PER_CHARACTER)
        row = most if limits.pair is None else min(limits.pair, most)
        return int(np.minimum(np.minimum(tokens, bounds).sum(axis=1), row).sum())

    def encode(self, work: Work, check: Check) -> Encoded:
        """Encode, in this thread."""
        encodings = work.encode(check)
        encoded = Encoded(encodings, *distinct(encodings.rows))
        self._update_estimate(work, encodings)
        return encoded

    async def encode_async(self, work: Work, check: Check) -> Encoded:
        """Encode in one of the threads. Raises what that raises, or ModelClosed."""
        return await _in_thread(self._threads, lambda: self.encode(work, check))

    async def list_async(self, work: Callable[[], T]) -> T:
        """What `work` makes of tokens that become objects, in the one thread for that. Raises what
        that raises, or ModelClosed."""
        return await _in_thread(self._listing_thread, work)

    def inherit_estimates(self, before: "TokenizerPool") -> None:
        """Estimate with what was measured of the model that this one replaces."""
        self._tokens_per_character = before._tokens_per_character

    def close(self) -> None:
        """Take no more work."""
        self._threads.shutdown(wait=False)
        self._listing_thread.shutdown(wait=False)

    def _update_estimate(self, work: Work, encodings: Encodings) -> None:
        if encodings.truncated:  # how much was cut is not known
            return
        found = sum(map(len, encodings.rows)) / max(1, int(work.characters.sum()))
        known = self._tokens_per_character or found
        self._tokens_per_character = known + _SHARE_OF_LATEST * (found - known)


async def _in_thread(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """The result of `work`; one that still waits for a thread is dropped with its request."""
    try:
        future = pool.submit(work)
    except RuntimeError:  # the threads were told to end since the request was admitted
        raise ModelClosed from None
    try:
        return await asyncio.wrap_future(future)
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:  # a panic in the tokenizer's Rust is no Exception
        raise EngineError(f"{type(error).__name__} in the tokenizer") from error
