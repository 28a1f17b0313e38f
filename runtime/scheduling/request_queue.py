"""The queue of waiting requests, indexed by length, arrival, deadline and fair share."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, filterfalse, islice

from runtime.batch import BatchLimits, grow_batch
from runtime.scheduling.fairness import Callers
from runtime.scheduling.priority import PriorityQueue
from runtime.scheduling.request import Request, Row
from runtime.scheduling.rows_by_length import RowsByLength

# While several callers wait, a batch takes rows of the first row's caller alone up to this share of
# padding. Otherwise other callers' rows would fill the batch that this caller is charged for.
_OWN_PADDING = 0.05


class RequestQueue:
    """Waiting requests: `rows` rows of `tokens` tokens in all.

    Not thread-safe: its owner has a lock. Adding and removing a row or a request is O(log n).
    """

    def __init__(self) -> None:
        self.rows = 0
        self.tokens = 0
        self._arrived: OrderedDict[Request, None] = OrderedDict()
        self._deadlines: PriorityQueue[Request] = PriorityQueue()
        self._callers = Callers()
        self._by_length = RowsByLength()
        self._numbers = count()

    def __len__(self) -> int:
        """The number of requests."""
        return len(self._arrived)

    def add(self, request: Request, now: float) -> None:
        """Add a request with all of its rows."""
        self._arrived[request] = None
        if request.deadline is not None:
            self._deadlines.put(request, (request.deadline, next(self._numbers)))
        self._callers.add(request, now)
        for row in request.waiting:
            self._by_length.add(row)
        self.rows += len(request.waiting)
        self.tokens += request.tokens

    def oldest(self) -> Request | None:
        """The request that arrived first; None without any."""
        return next(iter(self._arrived), None)

    def due(self, now: float) -> Request | None:
        """A request whose deadline has passed; None without any."""
        found = self._deadlines.first()
        return None if found is None or found[0][0] > now else found[1]

    def first_deadline(self) -> float | None:
        """The earliest deadline; None without any."""
        found = self._deadlines.first()
        return None if found is None else found[0][0]

    def drop(self, request: Request, most: int, now: float) -> bool:
        """Remove up to `most` rows of a request. Returns whether more are left."""
        self._remove(list(islice(request.waiting, most)), now)
        return bool(request.waiting)

    def take(self, limits: BatchLimits, now: float, *, in_order: bool) -> list[Row]:
        """Remove and return the rows of the next engine call, within `limits`.

        The first row is the next one by fair queueing, or of the oldest request when `in_order`;
        its neighbours in length follow. The queue must not be empty.
        """
        request = self.oldest() if in_order else self._callers.first()
        assert request is not None
        first = next(iter(request.waiting))
        batch = [first]
        if len(self._callers) > 1:
            own = self._callers.rows_of(request.caller)
            waste = min(_OWN_PADDING, limits.padding_waste)
            _grow(batch, own, replace(limits, padding_waste=waste))
        _grow(batch, self._by_length, limits)
        self._callers.charge(batch)
        self._remove(batch, now)
        return batch

    def _remove(self, rows: Sequence[Row], now: float) -> None:
        self.rows -= len(rows)
        for row in rows:
            request = row.request
            del request.waiting[row]
            self._by_length.remove(row)
            self._callers.remove(row)
            self.tokens -= row.length
            if not request.waiting:
                del self._arrived[request]
                self._deadlines.discard(request)
                self._callers.leave(request, now)


def _grow(batch: list[Row], rows: RowsByLength, limits: BatchLimits) -> None:
    """Grow `batch` with the neighbours of its first row among `rows`."""
    first, is_taken = batch[0], set(batch).__contains__
    shorter, longer = rows.shorter(first), rows.longer(first)
    grow_batch(batch, filterfalse(is_taken, shorter), filterfalse(is_taken, longer), limits)
