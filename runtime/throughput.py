"""How fast the engine is, measured: the basis of refusing what cannot be in time."""

from collections import deque

_CALLS_REMEMBERED = 32
# Fewer calls say more about a cold start than about the machine; warm-up alone is never enough.
_CALLS_WANTED = 8
# A request that was refused measures nothing, so what was measured long before an engine fell idle
# must not refuse for ever. While it works, the next measurement comes, however long a call takes.
_VALID_S = 60.0


class Throughput:
    """Seconds per token over the last engine calls; not thread-safe, its owner has a lock."""

    def __init__(self) -> None:
        self._calls: deque[float] = deque(maxlen=_CALLS_REMEMBERED)
        self._latest = 0.0

    def record(self, tokens: int, seconds: float, now: float) -> None:
        """One engine call of `tokens` real tokens that ended at `now` (time.monotonic())."""
        if not tokens:
            return
        self._calls.append(seconds / tokens)
        self._latest = now

    def inherit_estimates(self, before: "Throughput") -> None:
        """Begin with what was measured of a model that this one replaces."""
        self._calls = deque([*before._calls, *self._calls], maxlen=_CALLS_REMEMBERED)
        self._latest = max(self._latest, before._latest)

    def predicted_s(self, tokens: int, now: float, *, busy: bool) -> float:
        """Seconds that `tokens` take at least, or 0 while nothing reliable is known; `busy` says
        whether the engine has work at `now`.

        The faster quarter of the calls speaks: short rows and cold calls cost more for a token
        than a large request will, and refusing wrongly is worse than trying in vain.
        """
        old = not busy and now - self._latest > _VALID_S
        if len(self._calls) < _CALLS_WANTED or old:
            return 0.0
        return tokens * sorted(self._calls)[len(self._calls) // 4]
