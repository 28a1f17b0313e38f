"""One engine call: computed, by halves where memory is short, and shared out to its requests."""

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
    """What a call gave for the rows of one request: float32 [n] or [n, d], or an error."""

    request: Request
    rows: list[Row]
    outputs: Floats | ServingError

    def settle(self, call: EngineCall) -> Scored | ServingError | None:
        """Store it; what the request is to be answered, unless it still waits for other rows."""
        if isinstance(self.outputs, ServingError):
            return self.outputs
        try:
            return self.request.store(self.rows, self.outputs, call)
        except Exception as unexpected:
            return _engine_error(unexpected)


@dataclass(frozen=True)
class Result:
    """A call's shares, and its `error` if it failed as a whole."""

    shares: list[Share]
    error: ServingError | None


def run_call(compute: Compute, rows: Sequence[Row], shrink: Callable[[int], None]) -> Result:
    """Compute these rows. Of Exceptions it raises none: one bad call must not end the thread.

    Where the device has no memory for all of them at once, they are computed by halves, and
    `shrink` is told how many tokens a call had that was not too large: finding that again each time
    costs a failed call.
    """
    of_request: dict[Request, list[int]] = {}
    for place, row in enumerate(rows):
        of_request.setdefault(row.request, []).append(place)
    try:
        outputs = _fitting(compute, [row.encoding for row in rows], shrink)
        if len(outputs) != len(rows):
            raise EngineError(f"found {len(outputs)} outputs for {len(rows)} rows")
        broken = _not_finite(outputs)
        return Result(
            [
                # Only requests that own such a row fail: their neighbours' scores are sound.
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
    """What is told of the call of these rows."""
    lengths = [row.length for row in rows]
    return EngineCall(began, ended, len(rows), sum(lengths), len(rows) * max(lengths))


def _fitting(compute: Compute, encodings: Sequence[Sized], shrink: Callable[[int], None]) -> Floats:
    try:
        return compute(encodings)
    except OutOfMemory:
        if len(encodings) == 1:
            raise
    half = len(encodings) // 2
    shrink(max(1, half * max(map(len, encodings))))
    parts = (encodings[:half], encodings[half:])
    return np.concatenate([_fitting(compute, part, shrink) for part in parts])


def _not_finite(outputs: Floats) -> set[int]:
    """The rows with NaN or infinity."""
    finite = np.isfinite(outputs)
    if finite.all():
        return set()
    return {row for row, sound in enumerate(finite) if not sound.all()}


def _engine_error(unexpected: Exception) -> EngineError:
    error = EngineError(f"{type(unexpected).__name__} in the engine: {unexpected}")
    error.__cause__ = unexpected
    return error
