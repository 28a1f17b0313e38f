"""A model's threads for tokenising, and how many tokens it expects of a text."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from runtime.batch import distinct
from runtime.errors import EngineError, ModelClosed
from runtime.postprocess import Ints
from runtime.text import Check, Encoding, Encodings

T = TypeVar("T")

# How much the latest request moves the estimate of tokens per character.
_SHARE_OF_LATEST = 0.1
# Before any was measured: tokens of real text have about four characters.
_TOKENS_PER_CHARACTER = 0.25


@dataclass(frozen=True)
class Work:
    """What a request asks for, before anything is done for it: `rows` rows of together
    `characters` characters, what turns them into encodings while its Check lets it, until when it
    is to be answered (seconds of time.monotonic()), and whose turn it is. `row_tokens` is the most
    that a row may have, where the caller wants less than the model takes."""

    rows: int
    characters: int
    encode: Callable[[Check], Encodings]
    deadline: float | None
    caller: str
    row_tokens: int | None = None


@dataclass(frozen=True)
class Encoded:
    """A request's encodings, those `rows` of them that differ, and of each encoding its place among
    these, int64 [n]."""

    encodings: Encodings
    rows: list[Encoding]
    places: Ints


class Tokenizing:
    """Threads of one model, so that no other work of the process keeps its texts waiting."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(thread_name_prefix="tokenizer")
        # Where every token becomes an object, one request at a time may take that memory.
        self._lister = ThreadPoolExecutor(1, thread_name_prefix="tokenizer-listing")
        # Measured, so that a full queue refuses texts before they are tokenised.
        self._tokens_per_character: float | None = None

    def estimate(self, characters: int) -> int:
        """About how many tokens so many characters have."""
        return int(characters * (self._tokens_per_character or _TOKENS_PER_CHARACTER))

    def encode(self, work: Work, check: Check) -> Encoded:
        """Encode, in this thread."""
        encodings = work.encode(check)
        encoded = Encoded(encodings, *distinct(encodings.rows))
        self._learn(work, encodings)
        return encoded

    async def encode_async(self, work: Work, check: Check) -> Encoded:
        """Encode in one of the threads. Raises what that raises, or ModelClosed."""
        return await _in_thread(self._threads, lambda: self.encode(work, check))

    async def list_async(self, work: Callable[[], T]) -> T:
        """What `work` makes of tokens that become objects, in the one thread for that. Raises what
        that raises, or ModelClosed."""
        return await _in_thread(self._lister, work)

    def follow(self, before: "Tokenizing") -> None:
        """Estimate with what was measured of the model that this one replaces."""
        self._tokens_per_character = before._tokens_per_character

    def close(self) -> None:
        """Take no more work."""
        self._threads.shutdown(wait=False)
        self._lister.shutdown(wait=False)

    def _learn(self, work: Work, encodings: Encodings) -> None:
        if work.row_tokens is not None:  # how much was cut is not known
            return
        found = sum(map(len, encodings.rows)) / max(1, work.characters)
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
