"""What every served model has in common: an encoder, a scheduler, and what it says of itself."""

import asyncio
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from runtime.artifact import OpenArtifact
from runtime.batch import INPUT_NAMES, BatchLimits, assemble
from runtime.errors import (
    DeadlineExceeded,
    EngineError,
    GoldenMismatch,
    OutOfMemory,
)
from runtime.postprocess import EngineCall, Floats, Ints, Timing
from runtime.profile import Kind
from runtime.scheduling.admission import QueueLimits
from runtime.scheduling.request import Scored
from runtime.scheduling.scheduler import Scheduler
from runtime.scheduling.stats import SchedulerStats
from runtime.text import NO_LIMITS, Encoding, Encodings, TokenLimits
from runtime.tokenizing import Encoded, TokenizerPool, Work, lengths
from runtime.tokens import Token, tokens_of

T = TypeVar("T")

_log = logging.getLogger(__name__)

# Tokens of all texts of one request to list them: as many as a mebibyte of real text has.
_MOST_LISTED_TOKENS = 1 << 18


@dataclass(frozen=True)
class ModelInfo:
    """What is served. `max_tokens` bounds one pair or text, `max_rows` and `token_budget` (rows ×
    longest row) one engine call; `version` is the artifact's content hash, `engine_version` that
    of the engine's library; `proven` says whether an export proved these scores by the answers of
    `witness`, a loader that users use, which is "not witnessed" (and why) where there was none.

    Of an embedder: `dimensions` is the size of its vectors, `asymmetric` whether it tells queries
    from passages.
    """

    kind: Kind
    model_id: str
    version: str
    profile: str
    target: str
    engine: str
    engine_version: str
    device: str
    precision: str
    pooling: str
    max_tokens: int
    max_rows: int
    token_budget: int
    template: str | None
    mock: bool
    proven: bool
    witness: str
    dimensions: int | None = None
    asymmetric: bool = False


@dataclass(frozen=True)
class Computed:
    """One request's encodings and their `outputs` float32 [n] or [n, d]."""

    encodings: Encodings
    outputs: Floats
    timing: Timing

    @property
    def token_counts(self) -> Ints:
        """Tokens of each row, int64 [n]."""
        return np.asarray([len(row) for row in self.encodings.rows], dtype=np.int64)


class Model(ABC):
    """A model behind its scheduler; every method may be called from any thread."""

    def __init__(
        self,
        opened: OpenArtifact,
        info: ModelInfo,
        limits: BatchLimits,
        queue: QueueLimits,
        window_s: float,
    ) -> None:
        self.info = info
        self._manifest = opened.manifest
        self._engine = opened.engine
        self._tokenizer = opened.tokenizer
        # Joins calls of one row while the start looks at padding.
        self._padding_row: Encoding | None = None
        self._limits = limits
        self._scheduler = Scheduler(
            self._compute, limits, queue, window_s, lanes=opened.engine.lanes
        )
        self._tokenizer_pool = TokenizerPool()
        self._lock = threading.Lock()
        self._users = 0
        self._engine_closed = False

    def warm_up(self) -> None:
        """Run a real inference, on a GPU the largest first, and reproduce the manifest's goldens,
        the shortest of them padded too.

        Raises GoldenMismatch when ids or outputs differ from what the export recorded,
        EngineError when the engine cannot compute, and DeviceLost when its device failed.
        """
        if self._engine.device.startswith("cuda"):
            self._reserve_gpu_memory()
        checks = self._checks()
        for _, check in checks:
            check()
        row, check = min(checks, key=lambda one: len(one[0]))
        padding = f"{self._manifest.padding_side} with token {self._manifest.special_tokens.pad}"
        try:
            with self._padded(row):
                check()
        except GoldenMismatch as error:
            if not self._limits.padding_waste:  # no batch pads here: its scores would move
                return
            raise GoldenMismatch(f"in a call that pads on the {padding}: {error}") from error
        except EngineError as error:
            raise EngineError(f"in a call that pads on the {padding}: {error}") from error

    @abstractmethod
    def _checks(self) -> Sequence[tuple[Encoding, Callable[[], object]]]:
        """Rows that the engine must be able to compute, each with what computes it alone and, for
        a golden of the manifest, compares it."""

    @contextmanager
    def _padded(self, row: Encoding) -> Iterator[None]:
        """Calls with `row` alone get a longer row beside it in the block, which pads it.

        There is none where no call can hold both. Nor does it matter when the device has no memory
        for both: such batches are halved.
        """
        limits, tokens = replace(self._limits, padding_waste=1.0), len(row)
        lengths = range(min(2 * tokens, self.info.max_tokens), tokens, -1)
        longer = next((n for n in lengths if limits.allow(2, tokens + n, n)), None)
        if longer is not None:
            type_ids = None if row.type_ids is None else np.resize(row.type_ids, longer)
            self._padding_row = Encoding(np.resize(row.token_ids, longer), type_ids)
        try:
            with suppress(OutOfMemory):
                yield
        finally:
            self._padding_row = None

    def _reserve_gpu_memory(self) -> None:
        """Make the largest call that batches allow.

        Memory of the GPU is kept for later calls. Where the largest comes first, the others fit
        into what it left; where it comes last, theirs is too small for it and stays taken beside.
        What does not fit is found out, and batches are cut to what does, before anybody waits, or
        until `reset_limits`.
        """
        tokens, limits = self.info.max_tokens, self._limits
        rows = range(limits.max_rows, 1, -1)
        count = next((n for n in rows if limits.allow(n, n * tokens, tokens)), 1)
        row = Encoding(np.full(tokens, self._manifest.special_tokens.pad, np.int64), None)
        try:
            self.compute([row] * count)
        except OutOfMemory:
            _log.warning(
                "the GPU has no memory for one row of %d tokens: until it has, requests with such "
                "rows are refused; lower NIM_TRITON_MAX_SEQ_LENGTH, or raise "
                "RERANK_GPU_MEMORY_BYTES",
                tokens,
            )

    async def tokenize_async(
        self,
        texts: Sequence[str],
        use: Callable[[Iterator[Iterator[Token]]], T],
        *,
        add_special_tokens: bool,
        blanks: bool = False,
        deadline: float | None = None,
        caller: str = "",
    ) -> T:
        """What `use` makes, in a thread, of the tokens of each text alone, without template or
        prefix; with `blanks`, texts may be blank.

        They take room in the queue meanwhile, and requests of this kind run one after the other;
        cancelling the task ends the work behind the text that is being tokenised. Raises
        InputTooLong for too many tokens, InputRejected, DeadlineExceeded, or Unavailable.
        """
        estimate = self._estimate(lengths([""] * len(texts), texts))
        # Without the deadline: the engine's work is no reason to be late.
        with self._scheduler.admit(len(texts), estimate, None, caller, for_engine=False) as ticket:

            def work() -> T:
                ticket.check()
                found = tokens_of(
                    self._tokenizer,
                    texts,
                    _MOST_LISTED_TOKENS,
                    add_special_tokens=add_special_tokens,
                    check=ticket.check,
                    blanks=blanks,
                )
                return use(found)

            try:
                async with asyncio.timeout(_left(deadline)):
                    return await self._tokenizer_pool.list_async(work)
            except TimeoutError as error:
                raise DeadlineExceeded from error

    @property
    def files(self) -> Mapping[str, str]:
        """The artifact's files and their hashes, as they were when it was opened; of what no
        export sealed there are none."""
        return self._manifest.files

    @property
    def vocabulary_size(self) -> int:
        """Token ids are less: one more than the tokenizer's largest."""
        return 1 + max(self._tokenizer.get_vocab().values())

    def compute(self, rows: Sequence[Encoding]) -> Floats:
        """Outputs float32 [n] or [n, d] of n rows that were encoded elsewhere, blocking.

        Raises Unavailable or EngineError.
        """
        return self._scheduler.submit(rows, None).result().outputs

    def on_engine_call(self, callback: Callable[[EngineCall], None]) -> None:
        """Call `callback` after every successful engine call, in the thread that made it."""
        self._scheduler.on_engine_call(callback)

    def pending(self) -> int:
        """Requests with rows that wait for an engine call."""
        return self._scheduler.pending()

    def queue_depth(self) -> tuple[int, int]:
        """Rows and tokens that wait for an engine call."""
        return self._scheduler.queue_depth()

    def stats(self) -> SchedulerStats:
        """Counters of rows and engine calls since the start."""
        return self._scheduler.stats()

    def set_limits(self, limits: BatchLimits) -> None:
        """Keep the batches from now on within `limits`, but for its `shapes`, which are the
        engine's: `rerank-export tune` compares some."""
        self._scheduler.set_limits(replace(limits, shapes=self._engine.shapes))

    def reset_limits(self) -> None:
        """Let batches be as large again as they were at first: another model gave memory back."""
        self._scheduler.set_limits(self._limits)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Not idle in the block, from before its first text is tokenised to its last answer."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1

    def idle(self) -> bool:
        """Whether nobody uses it, and no request is being tokenised, waits or runs."""
        with self._lock:
            used = self._users > 0
        return not used and self._scheduler.idle()

    def inherit_estimates(self, before: "Model") -> None:
        """Estimate with what was measured of the model that this one replaces."""
        self._tokenizer_pool.inherit_estimates(before._tokenizer_pool)
        self._scheduler.inherit_estimates(before._scheduler)

    @property
    def unreachable(self) -> bool:
        """Whether the engine is another process that could not be reached, and has not come back
        since."""
        return self._scheduler.unreachable

    def reconnect(self) -> None:
        """Warm up again: an engine that was away counts as back when that succeeds.

        Raises as `warm_up` does, and Unavailable while it is away.
        """
        self.warm_up()
        self._scheduler.mark_reachable()

    def fault(self, patience_s: float) -> str | None:
        """What ails the engine so that only a new process helps: None, or a sentence.

        That is a device that failed for good, a call that runs for more than `patience_s` seconds,
        and the end of the thread that makes the calls.
        """
        if self._scheduler.device_lost:
            return "the device failed"
        if not self._scheduler.alive():
            return "the thread that calls the engine has ended"
        running_s = self._scheduler.running_s()
        if running_s > patience_s:
            return f"an engine call has been running for {running_s:.0f} s"
        return None

    def close(self) -> None:
        """Answer every waiter with ModelClosed and give the engine's memory back.

        An engine that hangs keeps its memory: closing it while it computes is not safe. May be
        called again, and from several threads.
        """
        if self._scheduler.close():
            with self._lock:
                closed, self._engine_closed = self._engine_closed, True
            if not closed:
                self._engine.close()
        self._tokenizer_pool.close()

    @abstractmethod
    def _compute(self, rows: Sequence[Encoding]) -> Floats:
        """Float32 [n] or [n, d] for n encodings; the scheduler's threads call it."""

    def _lay_out(self, rows: Sequence[Encoding]) -> dict[str, np.ndarray]:
        """The engine's inputs for these encodings, in the shape that it computes: it may have more
        rows than were given."""
        padding_row = self._padding_row  # which another thread may take away
        if padding_row is not None and len(rows) == 1:
            rows = [*rows, padding_row]
        pad, side = self._manifest.special_tokens.pad, self._manifest.padding_side
        names = [name for name in self._engine.input_names if name in INPUT_NAMES]
        shape = self._engine.shape_for(len(rows), max(map(len, rows)))
        return dict(assemble(rows, names, pad, side, shape))

    def _run(self, work: Work) -> Computed:
        """Encode and compute, blocking."""
        began = time.monotonic()
        estimate = self._estimate(work.characters, work.limits)
        with self._scheduler.admit(work.rows, estimate, work.deadline, work.caller) as ticket:
            encoded = self._tokenizer_pool.encode(work, ticket.check)
            tokenized = time.monotonic()
            future = ticket.submit(encoded.rows)
        try:
            scored = future.result(_left(work.deadline))
        except TimeoutError as error:
            future.cancel()
            raise DeadlineExceeded from error
        return _computed(encoded, scored, began, tokenized)

    async def _run_async(self, work: Work) -> Computed:
        """`_run` for an event loop: encodes in a worker thread and waits without one."""
        began = time.monotonic()
        estimate = self._estimate(work.characters, work.limits)
        try:
            async with asyncio.timeout(_left(work.deadline)):
                with self._scheduler.admit(
                    work.rows, estimate, work.deadline, work.caller
                ) as ticket:
                    encoded = await self._tokenizer_pool.encode_async(work, ticket.check)
                    tokenized = time.monotonic()
                    future = ticket.submit(encoded.rows)
                scored = await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise DeadlineExceeded from error
        return _computed(encoded, scored, began, tokenized)

    def _estimate(self, characters: Ints, limits: TokenLimits = NO_LIMITS) -> int:
        """About how many tokens rows have together; the arguments as Work has them."""
        return self._tokenizer_pool.estimate(characters, limits, self.info.max_tokens)

    def _require_ids(self, found: list[int], recorded: list[int]) -> None:
        if found != recorded:
            raise GoldenMismatch(
                f"the tokenizer gives {found[:12]}… for a golden text, the export recorded "
                f"{recorded[:12]}…; the tokenizer files or library changed"
            )


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _computed(encoded: Encoded, scored: Scored, began: float, tokenized: float) -> Computed:
    timing = Timing(
        tokenize_ms=(tokenized - began) * 1e3,
        queue_ms=scored.queue_ms,
        engine_ms=scored.engine_ms,
        total_ms=(time.monotonic() - began) * 1e3,
        began=began,
        calls=scored.calls,
    )
    return Computed(encoded.encodings, scored.outputs[encoded.places], timing)
