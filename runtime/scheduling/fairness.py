"""Fair queueing, with tokens in the place of time (Demers, Keshav and Shenker, 1989).

Callers share the engine equally, and so do the requests of one caller. Neither one large request
nor many small ones get more than their caller's share.
"""

import itertools
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

from runtime.scheduling.priority import PriorityQueue
from runtime.scheduling.request import Request, Row
from runtime.scheduling.rows_by_length import RowsByLength

T = TypeVar("T", bound=Hashable)

# A caller ahead of the average is remembered for this long after its last row, and at most this
# many callers are: leaving and joining again must not reset its count.
_REMEMBERED_S = 60.0
_MOST_REMEMBERED = 1024


class FairQueue(Generic[T]):
    """Members by the tokens computed for them; the member with the fewest comes first.

    A new member starts at the average, so that small members that come and go cannot starve a large
    one.
    """

    def __init__(self) -> None:
        self._turns: PriorityQueue[T] = PriorityQueue()
        self._average = 0.0
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._turns)

    def join(self, member: T, turn: float = 0.0) -> None:
        """Add a member; `turn` is its token count when it left, if that is remembered."""
        self._turns.put(member, (max(turn, self._average), next(self._numbers)))

    def leave(self, member: T) -> float | None:
        """Remove a member. Returns its token count if that is above the average, else None."""
        turn, _ = self._turns.key(member)
        self._turns.discard(member)
        return turn if turn > self._average else None

    def first(self) -> T | None:
        """The member with the fewest tokens; of equals, the one that joined first."""
        found = self._turns.first()
        return None if found is None else found[1]

    def charge(self, tokens: Mapping[T, int]) -> None:
        """Add the tokens that are computed for each of these members."""
        for member, count in tokens.items():
            turn, number = self._turns.key(member)
            self._turns.put(member, (turn + count, number))
        self._average += sum(tokens.values()) / len(self._turns)


class _Caller:
    """The requests of one caller that have waiting rows, and these rows."""

    def __init__(self) -> None:
        self.requests: FairQueue[Request] = FairQueue()
        self.rows = RowsByLength()


class Callers:
    """Fair queueing over callers with waiting rows; remembers a bounded number of earlier ones."""

    def __init__(self) -> None:
        self._turns: FairQueue[str] = FairQueue()
        self._waiting: dict[str, _Caller] = {}
        # Remembered callers: the token count when they left, and until when it is kept.
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: Request, now: float) -> None:
        """Add a request and its waiting rows."""
        name = request.caller
        caller = self._waiting.get(name)
        if caller is None:
            turn, until = self._left.pop(name, (0.0, now))
            self._turns.join(name, turn if now < until else 0.0)
            caller = self._waiting[name] = _Caller()
        caller.requests.join(request)
        for row in request.waiting:
            caller.rows.add(row)

    def remove(self, row: Row) -> None:
        """Remove a row."""
        self._waiting[row.request.caller].rows.remove(row)

    def leave(self, request: Request, now: float) -> None:
        """Remove a request that has no waiting rows left."""
        name = request.caller
        requests = self._waiting[name].requests
        requests.leave(request)
        if len(requests):
            return
        del self._waiting[name]
        turn = self._turns.leave(name)
        if turn is not None:
            self._left[name] = turn, now + _REMEMBERED_S
        self._forget(now)

    def first(self) -> Request | None:
        """The request whose row is next; None without any."""
        name = self._turns.first()
        return None if name is None else self._waiting[name].requests.first()

    def rows_of(self, name: str) -> RowsByLength:
        """The waiting rows of one caller."""
        return self._waiting[name].rows

    def charge(self, rows: Sequence[Row]) -> None:
        """Charge rows to their callers and requests; call it before they are removed."""
        of_caller: dict[str, Counter[Request]] = defaultdict(Counter)
        for row in rows:
            of_caller[row.request.caller][row.request] += row.length
        self._turns.charge({name: found.total() for name, found in of_caller.items()})
        for name, found in of_caller.items():
            self._waiting[name].requests.charge(found)

    def _forget(self, now: float) -> None:
        """Forget expired callers. Two at a time suffice, because each call adds one at most."""
        for _ in range(2):
            if not self._left:
                return
            oldest = next(iter(self._left))
            if len(self._left) <= _MOST_REMEMBERED and now < self._left[oldest][1]:
                return
            del self._left[oldest]
