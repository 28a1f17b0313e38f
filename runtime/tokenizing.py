"""A model's tokenizer threads, and its estimate of tokens per character."""

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

# The weight of the latest request in the moving average of tokens per character.
_SHARE_OF_LATEST = 0.1
# The estimate before the first measurement: tokens of real text have about four characters.
_TOKENS_PER_CHARACTER = 0.25


@dataclass(frozen=True)
class Work:
    """A request before tokenisation.

    `characters` int64 [rows, 2] are the lengths of each row's query and passage. `encode` turns the
    texts into encodings and calls its Check on the way. `deadline` is in seconds of
    time.monotonic(). `caller` is whom fair queueing charges. `limits` bound the tokens.
    """

    characters: Ints
    encode: Callable[[Check], Encodings]
    deadline: float | None
    caller: str
    limits: TokenLimits = NO_LIMITS

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.characters)


def lengths(queries: Sequence[str], passages: Sequence[str]) -> Ints:
    """The lengths in characters of n queries and passages, int64 [n, 2]."""
    columns = [np.fromiter(map(len, texts), np.int64, len(texts)) for texts in (queries, passages)]
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Encoded:
    """A request's encodings, the distinct `rows` among them, and for each encoding the index of its
    row, int64 [n]."""

    encodings: Encodings
    rows: list[Encoding]
    places: Ints


class TokenizerPool:
    """The tokenizer threads of one model, so that its texts wait for no other work."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(thread_name_prefix="tokenizer")
        # Listing makes an object of every token, so only one request at a time may do it.
        self._listing_thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer-listing")
        # A moving average, so that admission can refuse texts before they are tokenised.
        self._tokens_per_character: float | None = None

    def estimate(self, characters: Ints, limits: TokenLimits, most: int) -> int:
        """An estimate of the tokens of all rows, each at most `most`; `characters` and `limits` are
        those of Work."""
        bounds = [math.inf if limit is None else limit for limit in (limits.query, limits.passage)]
        tokens = characters * (self._tokens_per_character or _TOKENS_PER_CHARACTER)
        row = most if limits.pair is None else min(limits.pair, most)
        return int(np.minimum(np.minimum(tokens, bounds).sum(axis=1), row).sum())

    def encode(self, work: Work, check: Check) -> Encoded:
        """Encode in the calling thread."""
        encodings = work.encode(check)
        encoded = Encoded(encodings, *distinct(encodings.rows))
        self._update_estimate(work, encodings)
        return encoded

    async def encode_async(self, work: Work, check: Check) -> Encoded:
        """Encode in a thread of the pool. Raises what `work.encode` raises, or ModelClosed."""
        return await _in_thread(self._threads, lambda: self.encode(work, check))

    async def list_async(self, work: Callable[[], T]) -> T:
        """Run `work`, which lists tokens, in the listing thread. Raises what `work` raises, or
        ModelClosed."""
        return await _in_thread(self._listing_thread, work)

    def inherit_estimates(self, before: "TokenizerPool") -> None:
        """Start from the estimate that `before`, the replaced model's, has measured."""
        self._tokens_per_character = before._tokens_per_character

    def close(self) -> None:
        """Shut the threads down; no more work is taken."""
        self._threads.shutdown(wait=False)
        self._listing_thread.shutdown(wait=False)

    def _update_estimate(self, work: Work, encodings: Encodings) -> None:
        if encodings.truncated:  # the tokens of the whole texts are not known
            return
        found = sum(map(len, encodings.rows)) / max(1, int(work.characters.sum()))
        known = self._tokens_per_character or found
        self._tokens_per_character = known + _SHARE_OF_LATEST * (found - known)


async def _in_thread(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """Run `work` in `pool`; cancelling drops it if it has not begun."""
    try:
        future = pool.submit(work)
    except RuntimeError:  # the pool was shut down after the request was admitted
        raise ModelClosed from None
    try:
        return await asyncio.wrap_future(future)
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:  # a Rust panic of the tokenizer is not an Exception
        raise EngineError(f"{type(error).__name__} in the tokenizer") from error
