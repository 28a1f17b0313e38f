"""The base of every served model: an encoder, a tokenizer pool, a scheduler, and its ModelInfo."""

import asyncio
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from runtime.artifact import OpenArtifact
from runtime.batch import BatchLimits
from runtime.errors import (
    DeadlineExceeded,
    EngineError,
    GoldenMismatch,
    ImageNotAllowed,
    OutOfMemory,
)
from runtime.forward import Forward
from runtime.manifest import ImageGolden
from runtime.model_info import ModelInfo
from runtime.postprocess import Floats, Ints, Timing
from runtime.requests import AnyRequest, EmbedRequest, images_of, time_left_s
from runtime.scheduling.admission import QueueLimits
from runtime.scheduling.backlog import Ticket
from runtime.scheduling.request import Scored
from runtime.scheduling.scheduler import Scheduler
from runtime.text import Encoding, Encodings
from runtime.tokenizing import Encoded, Encoder, TokenizerPool
from runtime.tokens import Token, tokens_of
from runtime.vision.stats import ImageStats

if TYPE_CHECKING:  # which needs Pillow
    from runtime.vision.tower import Tower

T = TypeVar("T")

_log = logging.getLogger(__name__)

# The most tokens that one request may list: as many as a mebibyte of real text has.
_MOST_LISTED_TOKENS = 1 << 18


@dataclass(frozen=True)
class Computed:
    """One request's encodings and their `outputs`, float32 [n] or [n, d]."""

    encodings: Encodings
    outputs: Floats
    timing: Timing

    @property
    def token_counts(self) -> Ints:
        """Tokens of each row, int64 [n]."""
        return np.asarray([len(row) for row in self.encodings.rows], dtype=np.int64)


@dataclass(frozen=True)
class Known:
    """A request of one row whose ids and outputs an export has recorded."""

    request: AnyRequest
    token_ids: list[int]
    outputs: Sequence[float]


class Model(ABC):
    """A model behind its `scheduler`; every method may be called from any thread.

    `encoder` makes rows of a request's texts, `forward` computes rows, and the vision `tower` of a
    model that takes images embeds those first. The scheduler's threads start last, so that a model
    that cannot be made leaves none.
    """

    def __init__(
        self,
        opened: OpenArtifact,
        info: ModelInfo,
        encoder: Encoder,
        forward: Forward,
        limits: BatchLimits,
        queue: QueueLimits,
        window_s: float,
        tower: "Tower | None" = None,
    ) -> None:
        self.info = info
        self.encoder = encoder
        self.tower = tower
        self._manifest = opened.manifest
        self._engine = opened.engine
        self._tokenizer = opened.tokenizer
        self._forward = forward
        self._limits = limits
        self._tokenizer_pool = TokenizerPool(encoder, info.max_tokens)
        self._lock = threading.Lock()
        self._users = 0
        engine = opened.engine
        self.scheduler = Scheduler(
            forward.compute,
            limits,
            queue,
            window_s,
            lanes=engine.lanes,
            free=engine.close,
            prepare=forward.prepare,
            ahead=opened.target.calls_ahead,
        )

    def warm_up(self) -> None:
        """Run real inferences and reproduce the manifest's goldens, the shortest one padded too.

        A GPU computes the largest batch first. Raises GoldenMismatch when ids or outputs differ
        from the recorded ones, EngineError when the engine fails, and DeviceLost when its device is
        lost.
        """
        if self.tower is not None:
            self.tower.reserve_memory()
        if self._engine.device.startswith("cuda"):
            self._reserve_gpu_memory()
        most = self.info.max_tokens
        known = [one for one in self._goldens() if len(one.token_ids) <= most]
        checks: list[Callable[[], Encoding]] = [partial(self._check, one) for one in known]
        if not checks:
            checks = [partial(self._run_one, request) for request in self._samples()]
        rows = [check() for check in checks]
        row, check = min(zip(rows, checks, strict=True), key=lambda one: len(one[0]))
        self._check_padded(row, check)
        for golden in self._manifest.image_goldens:
            if len(golden.token_ids) <= most:
                self._check_image(golden)

    @abstractmethod
    def _goldens(self) -> Sequence[Known]:
        """The manifest's goldens of texts."""

    @abstractmethod
    def _samples(self) -> Sequence[AnyRequest]:
        """What a model without goldens warms up with: requests of one row."""

    @abstractmethod
    def _of_image(self, golden: ImageGolden) -> AnyRequest:
        """The request of a golden image."""

    @abstractmethod
    def _mismatch(self, found: Floats, recorded: Sequence[float], far: float) -> str:
        """Says that outputs for a golden text differ by `far` from the recorded ones."""

    def _run_one(self, request: AnyRequest) -> Encoding:
        return self._run(request).encodings.rows[0]

    def _check(self, known: Known) -> Encoding:
        """Compare a golden text's ids and outputs; returns its row."""
        computed, far = self._distance(known)
        if far > self._manifest.golden_tolerance:
            raise GoldenMismatch(
                f"{self._mismatch(computed.outputs, known.outputs, far)} (tolerance "
                f"{self._manifest.golden_tolerance}); run `rerank-export verify` on the artifact"
            )
        return computed.encodings.rows[0]

    def _check_image(self, golden: ImageGolden) -> None:
        assert self.tower is not None
        self.tower.check_pixels(golden, self._manifest.versions.get("pillow"))
        _, far = self._distance(Known(self._of_image(golden), golden.token_ids, golden.outputs))
        if far > self._manifest.golden_tolerance:
            raise GoldenMismatch(
                f"engine {self.info.engine} differs by {far:.2g} from what the export recorded for "
                f"a golden image (tolerance {self._manifest.golden_tolerance}); run `rerank-export "
                "verify` on the artifact"
            )

    def _distance(self, known: Known) -> tuple[Computed, float]:
        """Compute a golden; the largest difference from its outputs. Raises GoldenMismatch for
        other ids."""
        computed = self._run(known.request, own=True)
        ids = computed.encodings.rows[0].token_ids.tolist()
        if ids != known.token_ids:
            raise GoldenMismatch(
                f"the tokenizer gives {ids[:12]}… for a golden text, the export recorded "
                f"{known.token_ids[:12]}…; the tokenizer files or library changed"
            )
        found, recorded = computed.outputs.reshape(-1), np.asarray(known.outputs, np.float64)
        if found.shape != recorded.shape:
            return computed, np.inf
        return computed, float(np.abs(found - recorded).max())

    def _check_padded(self, row: Encoding, check: Callable[[], object]) -> None:
        """Repeat the `check` of this row in a call that pads it."""
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

    @contextmanager
    def _padded(self, row: Encoding) -> Iterator[None]:
        """Within the block, add a longer row to calls of `row` alone, so that it is padded.

        Without effect when no batch can hold both. OutOfMemory is ignored: such batches are halved
        later.
        """
        limits, tokens = replace(self._limits, padding_waste=1.0), len(row)
        lengths = range(min(2 * tokens, self.info.max_tokens), tokens, -1)
        longer = next((n for n in lengths if limits.allow(2, tokens + n, n)), None)
        if longer is not None:
            type_ids = None if row.type_ids is None else np.resize(row.type_ids, longer)
            self._forward.padding_row = Encoding(np.resize(row.token_ids, longer), type_ids)
        try:
            with suppress(OutOfMemory):
                yield
        finally:
            self._forward.padding_row = None

    def _reserve_gpu_memory(self) -> None:
        """Compute the largest batch that the limits allow, so that GPU memory is reserved once.

        The engine keeps GPU memory for later calls. If the largest call comes first, all others fit
        into its memory. If it came last, theirs would be too small for it and stay allocated too.
        A batch that does not fit is found here, before any request waits, and the limits are
        lowered until `reset_limits`.
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
        """Tokenise each text alone, without template or prefix, and return what `use` makes of the
        tokens; `use` runs in a thread. With `blanks`, texts may be blank.

        The texts take queue capacity meanwhile, and requests of this kind run one at a time.
        Cancelling the task stops the work after the current text. Raises InputTooLong for too many
        tokens, InputRejected, DeadlineExceeded, or Unavailable.
        """
        estimate = self._tokenizer_pool.estimate(EmbedRequest(texts))
        # No deadline for admission: this work does not wait for the engine.
        with self.scheduler.admit(len(texts), estimate, None, caller, for_engine=False) as ticket:

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
                async with asyncio.timeout(time_left_s(deadline)):
                    return await self._tokenizer_pool.list_async(work)
            except TimeoutError as error:
                raise DeadlineExceeded from error

    @property
    def files(self) -> Mapping[str, str]:
        """The artifact's files and their hashes at opening time; empty without a manifest."""
        return self._manifest.files

    @property
    def vocabulary_size(self) -> int:
        """One more than the tokenizer's largest token id."""
        return 1 + max(self._tokenizer.get_vocab().values())

    def compute(self, rows: Sequence[Encoding]) -> Floats:
        """Compute n encoded rows, blocking. Returns float32 [n] or [n, d].

        Raises Unavailable or EngineError.
        """
        return self.scheduler.submit(rows, None).result().outputs

    @property
    def lanes(self) -> int:
        """How many concurrent calls the engine takes."""
        return self._engine.lanes

    def set_limits(self, limits: BatchLimits) -> None:
        """Apply `limits` to batches from now on, except its `shapes`, which stay the engine's.
        `rerank-export tune` compares limits."""
        self.scheduler.set_limits(replace(limits, shapes=self._engine.shapes))

    def reset_limits(self) -> None:
        """Restore the limits that the model was opened with, after memory has become free."""
        self.scheduler.set_limits(self._limits)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Count a user for the block, so that `idle` is False until the request is answered."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1

    def idle(self) -> bool:
        """Whether the model has no users, and no request is being tokenised, waits or runs."""
        with self._lock:
            used = self._users > 0
        seeing = self.tower is not None and not self.tower.idle()
        return not used and not seeing and self.scheduler.idle()

    def inherit_estimates(self, before: "Model") -> None:
        """Start from the estimates that `before`, the replaced model, has measured."""
        self._tokenizer_pool.inherit_estimates(before._tokenizer_pool)
        self.scheduler.inherit_estimates(before.scheduler)
        if self.tower is not None and before.tower is not None:
            self.tower.scheduler.inherit_estimates(before.tower.scheduler)

    def image_stats(self) -> ImageStats:
        """Counters of images since the start; zeros of a model that takes none."""
        return ImageStats() if self.tower is None else self.tower.stats()

    def reconnect(self) -> None:
        """Warm up again; on success the remote engine counts as reachable.

        Raises as `warm_up` does, and Unavailable while the engine is unreachable.
        """
        self.warm_up()
        self.scheduler.unreachable = False

    def fault(self, patience_s: float) -> str | None:
        """A fault of the engine that only a new process mends, as a sentence; None without one.

        Faults are a lost device, a call that runs for more than `patience_s` seconds, and an ended
        thread that calls the engine.
        """
        if self.scheduler.device_lost:
            return "the device failed"
        if not self.scheduler.alive():
            return "the thread that calls the engine has ended"
        running_s = self.scheduler.running_s()
        if running_s > patience_s:
            return f"an engine call has been running for {running_s:.0f} s"
        return None if self.tower is None else self.tower.fault(patience_s)

    def close(self) -> None:
        """Answer every waiting request with ModelClosed and free the engine's memory.

        A hanging engine keeps its memory: closing it during a call is not safe. May be called again
        and from several threads.
        """
        if self.tower is not None:
            self.tower.close()
        self.scheduler.close()
        self._tokenizer_pool.close()

    def _run(self, request: AnyRequest, *, own: bool = False) -> Computed:
        """Embed the images, if there are any, encode and compute, blocking. Callers' limits do not
        bound the model's `own` images."""
        tower = self._tower_for(request)
        if tower is None:
            return self._run_texts(request)
        began = time.monotonic()
        with tower.embedded(request, self._text_s, own=own) as seen:
            return _from(began, self._run_texts(seen))

    async def _run_async(self, request: AnyRequest) -> Computed:
        """`_run` for an event loop: encodes in a thread, and waits without one."""
        tower = self._tower_for(request)
        if tower is None:
            return await self._run_texts_async(request)
        began = time.monotonic()
        async with tower.embedded_async(request, self._text_s) as seen:
            return _from(began, await self._run_texts_async(seen))

    def _tower_for(self, request: AnyRequest) -> "Tower | None":
        """The tower if the request has images. Raises ImageNotAllowed."""
        images = images_of(request)
        if images and self.tower is None:
            index = next(index for index, image in enumerate(images) if image is not None)
            raise ImageNotAllowed(request.image_place(index), "this model takes none")
        return self.tower if images else None

    def _text_s(self, tiles: int) -> float:
        """Seconds that the text model takes at least for images of so many tiles: tiles are only
        taken when it has time for their tokens as well."""
        assert self._manifest.vision is not None
        return self.scheduler.predicted_s(tiles * self._manifest.vision.tokens)

    def _run_texts(self, request: AnyRequest) -> Computed:
        began = time.monotonic()
        with self._admit(request) as ticket:
            encoded = self._tokenizer_pool.encode(request, ticket.check)
            tokenized = time.monotonic()
            future = ticket.submit(encoded.rows)
        try:
            scored = future.result(time_left_s(request.deadline))
        except TimeoutError as error:
            future.cancel()
            raise DeadlineExceeded from error
        return _computed(encoded, scored, began, tokenized)

    async def _run_texts_async(self, request: AnyRequest) -> Computed:
        began = time.monotonic()
        try:
            async with asyncio.timeout(time_left_s(request.deadline)):
                with self._admit(request) as ticket:
                    encoded = await self._tokenizer_pool.encode_async(request, ticket.check)
                    tokenized = time.monotonic()
                    future = ticket.submit(encoded.rows)
                scored = await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise DeadlineExceeded from error
        return _computed(encoded, scored, began, tokenized)

    def _admit(self, request: AnyRequest) -> Ticket:
        estimate = self._tokenizer_pool.estimate(request)
        return self.scheduler.admit(len(request.texts), estimate, request.deadline, request.caller)


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


def _from(began: float, computed: Computed) -> Computed:
    """The request's time with that of its images, which `began` before its texts."""
    timing = computed.timing
    image_ms = (timing.began - began) * 1e3
    total_ms = timing.total_ms + image_ms
    timing = replace(timing, began=began, image_ms=image_ms, total_ms=total_ms)
    return replace(computed, timing=timing)
