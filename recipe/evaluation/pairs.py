"""The differences of every two columns, and what can be said about them.

The measure that is quoted (NDCG@10) is judged alone, by its own interval and p; each of the others
by its p after the correction for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from recipe.evaluation.measured import Measured
from recipe.evaluation.significance import Gain, gains

# The question of the whole recipe.
TUNING = ("base", "finetuned")
_LEAST_P = 0.001


@dataclass(frozen=True)
class Pair:
    """Two columns: a Gain for each measure, of which `key` is quoted.

    `unmovable` counts the queries whose positive is not among the candidates.
    """

    before: str
    after: str
    key: str
    gains: dict[str, Gain]
    unmovable: int

    @property
    def worse(self) -> list[str]:
        """The measures that are worse by more than chance."""
        return [key for key in self.gains if self._certain(key) and self.gains[key].difference < 0]

    def said(self, key: str) -> str:
        """In words, what the difference of this measure is worth."""
        if not self._certain(key):
            return "not more than chance"
        return "better" if self.gains[key].difference > 0 else "worse"

    def _certain(self, key: str) -> bool:
        return self.gains[key].certain(alone=key == self.key)


def find_pairs(measured: Measured) -> list[Pair]:
    """Every pair of the columns that have scores, base → fine-tuned first."""
    names = list(measured.scores)
    figures = {name: measured.figures(name) for name in names}
    pairs = sorted(combinations(names, 2), key=lambda pair: pair != TUNING)
    return [
        _pair(measured, before, after, gains(figures[before], figures[after]))
        for before, after in pairs
    ]


def seed_pairs(measured: Measured) -> list[Pair]:
    """The first column of `measured`, the base, with the mean of the others, then with each.

    The others are seeds of one training; their mean is that of each query's figures.
    """
    base, *seeds = measured.scores
    figures = {name: measured.figures(name) for name in measured.scores}
    mean = f"mean of {len(seeds)} seeds"
    figures[mean] = np.mean([figures[name] for name in seeds], axis=0)
    return [
        _pair(measured, base, name, gains(figures[base], figures[name])) for name in (mean, *seeds)
    ]


def _pair(measured: Measured, before: str, after: str, found: Sequence[Gain]) -> Pair:
    keys = [key for _, key in measured.compared()]
    by_key = dict(zip(keys, found, strict=True))
    return Pair(before, after, measured.key, by_key, measured.unmovable(before))


def sentences(pair: Pair) -> list[str]:
    """What can be said of the quoted measure, and of the queries."""
    gain = pair.gains[pair.key]
    found = f"{pair.before} → {pair.after}: {pair.key} {_figures(gain)} over {gain.queries} queries"
    verdict = pair.said(pair.key)
    lines = [f"{found}: {verdict}."]
    if verdict not in ("better", "worse"):
        lines.append(
            "No query differs, so nothing can be said."
            if gain.needed is None
            else f"To find a difference of this size, about {gain.needed} queries are needed."
        )
    if pair.unmovable:
        lines.append(
            f"{pair.unmovable} of {gain.queries} queries cannot move: their positive is not among "
            "the candidates."
        )
    return lines


def worsening(pair: Pair) -> str:
    """What is worse by more than chance, in one sentence; "" for nothing."""
    fallen = [f"{key} {_figures(pair.gains[key])}" for key in pair.worse]
    if not fallen:
        return ""
    queries = pair.gains[pair.key].queries
    return f"{pair.after} is worse than {pair.before} over {queries} queries: {'; '.join(fallen)}"


def tables(pairs: Sequence[Pair]) -> list[str]:
    """The lines of the first pair at every measure, then of each pair at the quoted one."""
    if not pairs:
        return []
    first = pairs[0]
    lines = [
        *sentences(first),
        "",
        *_head(f"{first.before} → {first.after}"),
        *(_row(key, key, first) for key in first.gains),
        "",
        f"p is that of a sign-flip test, the corrected p Holm's for {len(first.gains)} measures. "
        f"{first.key} is judged by its own interval and p, the others by the corrected p.",
    ]
    if len(pairs) > 1:
        lines += ["", *_head(first.key)]
        lines += [_row(f"{one.before} → {one.after}", one.key, one) for one in pairs]
    return lines


def _head(title: str) -> list[str]:
    return [
        f"| {title} | difference | 95 % interval | p | corrected p | wins/losses/ties | verdict |",
        "|---|---|---|---|---|---|---|",
    ]


def _row(title: str, key: str, pair: Pair) -> str:
    gain = pair.gains[key]
    return (
        f"| {title} | {gain.difference:+.4f} | {gain.low:+.4f} … {gain.high:+.4f} | {_p(gain.p)} | "
        f"{_p(gain.corrected_p)} | {gain.wins}/{gain.losses}/{gain.ties} | {pair.said(key)} |"
    )


def _figures(gain: Gain) -> str:
    return (
        f"{gain.difference:+.4f} (95 % interval {gain.low:+.4f} … {gain.high:+.4f}, p "
        f"{'' if gain.p < _LEAST_P else '= '}{_p(gain.p)})"
    )


def _p(value: float) -> str:
    return f"< {_LEAST_P}" if value < _LEAST_P else f"{value:.3f}"
