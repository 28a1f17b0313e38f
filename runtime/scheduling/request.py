"""A request and its rows, from the queue to the answer."""

from collections import OrderedDict
from collections.abc import Sequence, Sized
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from runtime.errors import EngineError, ServingError
from runtime.postprocess import EngineCall, Floats


@dataclass(frozen=True)
class Scored:
    """One request's result: `outputs` float32 [n] (logits) or [n, d] (vectors) in the order
    submitted, its timing, and the engine calls that held its rows.

    `queue_ms` is the time from submission to the start of its first engine call, `engine_ms` from
    there to the end of its last.
    """

    outputs: Floats
    queue_ms: float
    engine_ms: float
    calls: tuple[EngineCall, ...] = ()


@dataclass(eq=False, slots=True)
class Row:
    """Row number `index` of a request, `length` tokens long."""

    request: "Request"
    index: int
    encoding: Sized
    length: int


class Request:
    """A submitted request.

    `waiting` are its rows that no engine call has taken yet. Its owner has a lock. `answer` should
    be called without the lock, all else with it.
    """

    def __init__(
        self, encodings: Sequence[Sized], deadline: float | None, caller: str, submitted: float
    ) -> None:
        self.future: Future[Scored] = Future()
        self.deadline = deadline
        self.caller = caller
        self.submitted = submitted
        rows = [Row(self, number, found, len(found)) for number, found in enumerate(encodings)]
        self.tokens = sum(row.length for row in rows)
        # Longest first: with short rows at the end, all lanes finish at about the same time.
        rows.sort(key=lambda row: -row.length)
        self.waiting: OrderedDict[Row, None] = OrderedDict.fromkeys(rows)
        self._rows = self._open_rows = len(rows)
        # Allocated with the first outputs, because their shape is not known before.
        self._outputs: Floats | None = None
        self._calls: list[EngineCall] = []

    def store(self, rows: Sequence[Row], outputs: Floats, call: EngineCall) -> Scored | None:
        """Store one call's outputs for these rows, float32 [n] or [n, d].

        Returns the result once all rows are there. Raises EngineError when the shape differs from
        that of earlier rows.
        """
        shape = outputs.shape[1:]
        if self._outputs is None:
            self._outputs = np.empty((self._rows, *shape), dtype=np.float32)
        if self._outputs.shape[1:] != shape:
            raise EngineError(
                f"found outputs of shape {list(shape)} a row after {list(self._outputs.shape[1:])}"
            )
        self._outputs[[row.index for row in rows]] = outputs
        self._calls.append(call)
        self._open_rows -= len(rows)
        if self._open_rows:
            return None
        began = min(call.began for call in self._calls)
        ended = max(call.ended for call in self._calls)
        return Scored(
            outputs=self._outputs,
            queue_ms=(began - self.submitted) * 1e3,
            engine_ms=(ended - began) * 1e3,
            calls=tuple(self._calls),
        )

    def answer(self, outcome: Scored | ServingError) -> None:
        """Complete the future with `outcome`, unless it is cancelled or complete already.

        The future's callbacks run here. What they raise is dropped, so that it ends no thread.
        """
        try:
            if isinstance(outcome, ServingError):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)
        except BaseException:  # InvalidStateError, or an error of a callback
            return
