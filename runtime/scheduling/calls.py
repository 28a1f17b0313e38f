"""One engine call: run it, halve it when memory is short, and split its outputs by request."""

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.errors import EngineError, NonFiniteScore, OutOfMemory, ServingError
from runtime.postprocess import EngineCall, Floats
from runtime.scheduling.request import Request, Row, Scored

# Of rows the scheduler knows their lengths; what they are is between who submits and computes.
Compute = Callable[[Sequence[Any]], Floats]


@dataclass(frozen=True)
class Share:
    """One request's part of a call: `outputs` float32 [n] or [n, d] for its `rows`, or an error."""

    request: Request
    rows: list[Row]
    outputs: Floats | ServingError

    def settle(self, call: EngineCall) -> Scored | ServingError | None:
        """Store the outputs. Returns the request's outcome, or None while other rows are open."""
        if isinstance(self.outputs, ServingError):
            return self.outputs
        try:
            return self.request.store(self.rows, self.outputs, call)
        except Exception as unexpected:
            return _engine_error(unexpected)


@dataclass(frozen=True)
class Result:
    """A call's shares by request, and its `error` if the whole call failed."""

    shares: list[Share]
    error: ServingError | None


def run_call(compute: Compute, rows: Sequence[Row], shrink: Callable[[int], None]) -> Result:
    """Compute these rows. Raises no Exception: one bad call must not end the scheduler's thread.

    When the device is out of memory the batch is halved, and `shrink` gets the token count of the
    halves, so that later batches are small enough from the start.
    """
    of_request: dict[Request, list[int]] = {}
    for place, row in enumerate(rows):
        of_request.setdefault(row.request, []).append(place)
    try:
        outputs = _compute_in_halves(compute, [row.encoding for row in rows], shrink)
        if len(outputs) != len(rows):
            raise EngineError(f"found {len(outputs)} outputs for {len(rows)} rows")
        broken = _not_finite(outputs)
        return Result(
            [
                # Only requests with such a row fail; the other rows' scores are valid.
                Share(
                    request,
                    [rows[place] for place in places],
                    outputs[places] if broken.isdisjoint(places) else NonFiniteScore(len(broken)),
                )
                for request, places in of_request.items()
            ],
            None,
        )
    except Exception as raised:
        error = raised if isinstance(raised, ServingError) else _engine_error(raised)
        return Result([Share(request, [], error) for request in of_request], error)


def engine_call(rows: Sequence[Row], began: float, ended: float) -> EngineCall:
    """The record of a call of these rows, for callbacks and statistics."""
    lengths = [row.length for row in rows]
    return EngineCall(began, ended, len(rows), sum(lengths), len(rows) * max(lengths))


def _compute_in_halves(
    compute: Compute, encodings: Sequence[Sized], shrink: Callable[[int], None]
) -> Floats:
    try:
        return compute(encodings)
    except OutOfMemory:
        if len(encodings) == 1:
            raise
    half = len(encodings) // 2
    shrink(max(1, half * max(map(len, encodings))))
    parts = (encodings[:half], encodings[half:])
    return np.concatenate([_compute_in_halves(compute, part, shrink) for part in parts])


def _not_finite(outputs: Floats) -> set[int]:
    """Indexes of the rows with NaN or infinity."""
    finite = np.isfinite(outputs)
    if finite.all():
        return set()
    return {row for row, sound in enumerate(finite) if not sound.all()}


def _engine_error(unexpected: Exception) -> EngineError:
    error = EngineError(f"{type(unexpected).__name__} in the engine: {unexpected}")
    error.__cause__ = unexpected
    return error
