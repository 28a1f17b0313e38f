"""Whether a difference of two columns is more than chance, from the figures of single queries.

The queries are paired: both columns rerank the same candidates. The interval is the percentile
bootstrap of the mean difference (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
section 13.3); p is that of the sign-flip (Fisher's) randomisation test, two-sided, which Smucker,
Allan and Carterette (CIKM 2007) recommend for retrieval; several measures are corrected by Holm's
step-down method (1979). A measure in which no query differs is left out of the family: its p is 1
whatever the signs (Tarone, Biometrics 1990).
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

Figures = NDArray[np.float64]

LEVEL = 0.05
_POWER = 0.8
_RESAMPLES = 10_000
# Up to so many differences that are not 0, all their signs are tried.
_EXACT = 12
# Of fewer, even equal signs have no p below LEVEL: 2 / 2ⁿ.
_FEWEST = math.floor(1 - math.log2(LEVEL)) + 1
# Values in memory at once.
_BLOCK = 4_000_000
# Sums of equal parts in another order are equal.
_ROUNDING = 1e-12


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """The mean difference of one measure over `queries`, with its 95 % interval.

    `corrected_p` is p by Holm's method over the measures of the pair in which a query differs.
    `needed` is the number of queries at which a difference of this size would be found four times
    in five; None where there is no difference, or one query.
    """

    difference: float
    low: float
    high: float
    p: float
    corrected_p: float
    wins: int
    losses: int
    ties: int
    queries: int
    needed: int | None

    @property
    def moved(self) -> int:
        """The queries that differ."""
        return self.wins + self.losses

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0

    def certain(self, *, alone: bool) -> bool:
        """Whether it is more than chance, by interval and test: of few queries the interval is too
        narrow. `alone`: it was chosen beforehand as the measure to look at."""
        return self.excludes_zero and (self.p if alone else self.corrected_p) < LEVEL


def gains(before: Figures, after: Figures) -> list[Gain]:
    """One Gain for each measure; both are float64 [queries, measures] in the same order.

    The same figures give the same result on every machine: the random numbers are fixed.
    """
    return gains_of([(before, after)])[0]


def gains_of(pairs: Sequence[tuple[Figures, Figures]]) -> list[list[Gain]]:
    """As `gains`, for each pair: queries and signs are drawn once for all of them."""
    if not pairs:
        return []
    differences = _cleared(np.concatenate([after - before for before, after in pairs], axis=1))
    lows, highs = _intervals(differences)
    flipped = _sign_flips(differences)
    found, start = [], 0
    for before, _ in pairs:
        part = slice(start, start := start + before.shape[1])
        family = differences[:, part], lows[part], highs[part], flipped[part]
        found.append(_family(*family))
    return found


def _family(
    differences: Figures, lows: Figures, highs: Figures, flipped: list[float]
) -> list[Gain]:
    moved = [index for index, column in enumerate(differences.T) if column.any()]
    corrected = dict(zip(moved, holm([flipped[index] for index in moved]), strict=True))
    means = _cleared(differences.mean(axis=0))
    return [
        Gain(
            difference=float(means[index]),
            low=float(lows[index]),
            high=float(highs[index]),
            p=flipped[index],
            corrected_p=corrected.get(index, 1.0),
            wins=int((column > 0).sum()),
            losses=int((column < 0).sum()),
            ties=int((column == 0).sum()),
            queries=len(column),
            needed=_needed(column, abs(float(means[index]))),
        )
        for index, column in enumerate(differences.T)
    ]


def _cleared(values: Figures) -> Figures:
    """The values, those that are nothing but rounding as 0."""
    return np.where(np.abs(values) < _ROUNDING, 0.0, values)


def holm(values: list[float]) -> list[float]:
    """Each p of a family, corrected by Holm's step-down method."""
    corrected, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected


def _intervals(differences: Figures) -> tuple[Figures, Figures]:
    count = len(differences)
    random = np.random.default_rng(0)
    means = [
        random.multinomial(count, np.full(count, 1 / count), size) @ differences / count
        for size in _blocks(count)
    ]
    low, high = np.quantile(np.concatenate(means), [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    return low, high


def _sign_flips(differences: Figures) -> list[float]:
    random = np.random.default_rng(0)
    least = np.abs(differences.sum(axis=0)) - _ROUNDING
    reached = np.zeros(differences.shape[1], dtype=np.int64)
    for size in _blocks(len(differences)):
        signs = random.integers(0, 2, (size, len(differences)), dtype=np.int8) * 2.0 - 1.0
        reached += (np.abs(signs @ differences) >= least).sum(axis=0)
    return [
        _all_signs(column[column != 0])
        if np.count_nonzero(column) <= _EXACT
        # The signs as they were found count as one of the drawn (Phipson and Smyth, 2010).
        else float((1 + many) / (1 + _RESAMPLES))
        for column, many in zip(differences.T, reached, strict=True)
    ]


def _all_signs(differences: Figures) -> float:
    signs = np.array(list(product((-1.0, 1.0), repeat=len(differences))))
    least = abs(differences.sum()) - _ROUNDING
    return float((np.abs(signs @ differences) >= least).mean())


def _blocks(count: int) -> Iterator[int]:
    size = max(1, min(_RESAMPLES, _BLOCK // count))
    for start in range(0, _RESAMPLES, size):
        yield min(size, _RESAMPLES - start)


def _needed(differences: Figures, mean: float) -> int | None:
    """n = ((z(1 - level/2) + z(power)) · sd / mean)², of a paired test by the normal law."""
    if mean == 0 or len(differences) == 1:
        return None
    reach = NormalDist().inv_cdf(1 - LEVEL / 2) + NormalDist().inv_cdf(_POWER)
    return max(_FEWEST, math.ceil((reach * float(differences.std(ddof=1)) / mean) ** 2))
