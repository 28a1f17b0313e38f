"""A model's tokenizer threads, and its estimate of tokens per character."""

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from runtime.batch import distinct
from runtime.errors import EngineError, ModelClosed
from runtime.postprocess import Ints
from runtime.requests import AnyRequest, image_tokens_of
from runtime.text import Check, Encoding, Encodings, unchecked

T = TypeVar("T")

# The weight of the latest request in the moving average of tokens per character.
_SHARE_OF_LATEST = 0.1
# The estimate before the first measurement: tokens of real text have about four characters.
_TOKENS_PER_CHARACTER = 0.25


@dataclass(frozen=True)
class Encoded:
    """A request's encodings, the distinct `rows` among them, and for each encoding the index of its
    row, int64 [n]."""

    encodings: Encodings
    rows: list[Encoding]
    places: Ints


class Encoder(Protocol):
    """Turns the texts of requests into encodings, see `runtime.text`."""

    def encode(self, request: Any, check: Check = unchecked) -> Encodings:
        """The encodings, calling `check` on the way to cancel the work. Raises InputRejected."""


class TokenizerPool:
    """The tokenizer threads of one model, so that its texts wait for no other work.

    `encoder` gives at most `max_tokens` tokens a row.
    """

    def __init__(self, encoder: Encoder, max_tokens: int) -> None:
        self._encoder = encoder
        self._max_tokens = max_tokens
        self._threads = ThreadPoolExecutor(thread_name_prefix="tokenizer")
        # Listing makes an object of every token, so only one request at a time may do it.
        self._listing_thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer-listing")
        # A moving average, so that admission can refuse texts before they are tokenised.
        self._tokens_per_character: float | None = None

    def estimate(self, request: AnyRequest) -> int:
        """An estimate of the tokens of all rows."""
        limits, most = request.limits, self._max_tokens
        bounds = [math.inf if limit is None else limit for limit in (limits.query, limits.passage)]
        tokens = request.characters * (self._tokens_per_character or _TOKENS_PER_CHARACTER)
        row = most if limits.pair is None else min(limits.pair, most)
        rows = np.minimum(tokens, bounds).sum(axis=1) + image_tokens_of(request)
        return int(np.minimum(rows, row).sum())

    def encode(self, request: AnyRequest, check: Check) -> Encoded:
        """Encode in the calling thread."""
        encodings = self._encoder.encode(request, check)
        encoded = Encoded(encodings, *distinct(encodings.rows))
        self._update_estimate(request, encodings)
        return encoded

    async def encode_async(self, request: AnyRequest, check: Check) -> Encoded:
        """Encode in a thread of the pool. Raises what the encoder raises, or ModelClosed."""
        return await in_thread(self._threads, lambda: self.encode(request, check))

    async def list_async(self, work: Callable[[], T]) -> T:
        """Run `work`, which lists tokens, in the listing thread. Raises what `work` raises, or
        ModelClosed."""
        return await in_thread(self._listing_thread, work)

    def inherit_estimates(self, before: "TokenizerPool") -> None:
        """Start from the estimate that `before`, the replaced model's, has measured."""
        self._tokens_per_character = before._tokens_per_character

    def close(self) -> None:
        """Shut the threads down; no more work is taken."""
        self._threads.shutdown(wait=False)
        self._listing_thread.shutdown(wait=False)

    def _update_estimate(self, request: AnyRequest, encodings: Encodings) -> None:
        if encodings.truncated:  # the tokens of the whole texts are not known
            return
        characters = int(request.characters.sum())
        if not characters:  # images alone
            return
        found = sum(len(row) - row.image_tokens for row in encodings.rows) / characters
        known = self._tokens_per_character or found
        self._tokens_per_character = known + _SHARE_OF_LATEST * (found - known)


async def in_thread(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
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
