"""The engine's measured throughput, from which admission predicts whether a request is in time."""

from collections import deque

_CALLS_REMEMBERED = 32
# Fewer calls measure a cold start rather than the machine; warm-up alone is never enough.
_CALLS_WANTED = 8
# Measurements of an idle engine expire: a refused request measures nothing, so an old, slow
# measurement would refuse requests for ever. A busy engine brings new measurements by itself.
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
        """Start from the measurements of `before`, the replaced model's."""
        self._calls = deque([*before._calls, *self._calls], maxlen=_CALLS_REMEMBERED)
        self._latest = max(self._latest, before._latest)

    def predicted_s(self, tokens: int, now: float, *, busy: bool) -> float:
        """A lower bound on the seconds that `tokens` take; 0 without reliable measurements. `busy`
        says whether the engine has work at `now`.

        The first quartile of seconds per token is used: short rows and cold calls cost more per
        token than a large request, and a wrong refusal is worse than a late answer.
        """
        old = not busy and now - self._latest > _VALID_S
        if len(self._calls) < _CALLS_WANTED or old:
            return 0.0
        return tokens * sorted(self._calls)[len(self._calls) // 4]
