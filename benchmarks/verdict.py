"""The verdict of a run: for each class of fidelity the fastest of ours beside the best peer.

Candidates are *faithful* with Kendall's tau of at least 0.99 on judged queries, and *ranking-safe*
of at least 0.95. Where no queries were ranked, the precision decides: fp32 and bf16 are faithful,
int8 of ours is ranking-safe, as its export was proven, and int8 of a peer is in no class.
"""

from collections.abc import Iterator

from benchmarks.results import CandidateFacts, Fidelity, Point, Results, best, rates, ratio, spread
from benchmarks.tables import median_and_range, number, table

FAITHFUL, RANKING_SAFE = "faithful", "ranking-safe"
_TAUS = {FAITHFUL: 0.99, RANKING_SAFE: 0.95}
# Repeats that differ by more than this share of their median are worth a warning.
_WIDE = 0.10


def verdict(results: Results) -> str:
    """One line for each model and class, in Markdown; empty without a peer or one of ours."""
    rows = [row for point in results.points for row in _rows(results, point)]
    head = ["model", "class", "fastest of ours", "tokens/s", "best peer", "tokens/s", "ratio"]
    found = table(head, rows)
    return f"## Verdict\n\n{found}" if found else ""


def class_of(facts: CandidateFacts, found: Fidelity | None) -> str | None:
    """The better class that a candidate is in; None if it may change the order."""
    if found is not None and found.cranfield_tau is not None:
        return next((name for name, least in _TAUS.items() if found.cranfield_tau >= least), None)
    if facts.precision != "int8":
        return FAITHFUL
    return RANKING_SAFE if facts.ours else None


def _rows(results: Results, point: Point) -> Iterator[list[str]]:
    if point.scenario != point.model:
        return
    fidelity = results.models[point.model].fidelity
    classes = {
        name: class_of(facts, fidelity.get(name)) for name, facts in results.candidates.items()
    }
    for wanted, allowed in ((FAITHFUL, (FAITHFUL,)), (RANKING_SAFE, (FAITHFUL, RANKING_SAFE))):
        names = [name for name in point.measured if classes[name] in allowed]
        # Ours are compared as they are used: as servers.
        ours = [n for n in names if results.candidates[n].ours and results.candidates[n].serves]
        peers = [name for name in names if not results.candidates[name].ours]
        if not (mine := best(point, ours, 1)) or not (theirs := best(point, peers, 1)):
            continue
        times = ratio(point, mine[0], theirs[0])
        assert times is not None
        yield [
            f"{point.model}, {point.passages} passages",
            wanted,
            *_speed(point, mine[0]),
            *_speed(point, theirs[0]),
            median_and_range(times),
        ]


def _speed(point: Point, name: str) -> list[str]:
    """Name and median speed, with a warning where repeats differ."""
    found = spread(rates(point, name))
    width = (found.high - found.low) / found.median
    return [name, number(found.median) + (f" (spread {width:.0%})" if width > _WIDE else "")]
