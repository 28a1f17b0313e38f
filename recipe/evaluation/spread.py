"""What several seeds of one training give: mean and spread of each measure."""

from collections.abc import Sequence
from statistics import fmean, stdev

from recipe.evaluation.measured import COMPARED
from recipe.evaluation.results import Column


def spread_head(seeds: int) -> list[str]:
    """The titles of the columns of `spread_rows`."""
    return [
        "measure",
        "base",
        f"mean of {seeds} seeds",
        "standard deviation",
        "least … greatest",
        "seeds above base",
    ]


def spread_rows(base: Column | None, seeds: Sequence[Column]) -> list[list[str]]:
    """A row for each measure of at least two columns, one for each seed, beside the base's."""
    rows = []
    for measure in COMPARED:
        for key in getattr(seeds[0], measure):
            values = [getattr(column, measure)[key] for column in seeds]
            start = None if base is None else getattr(base, measure)[key]
            rows.append(
                [
                    key,
                    "–" if start is None else f"{start:.4f}",
                    f"{fmean(values):.4f}",
                    f"{stdev(values):.4f}",
                    f"{min(values):.4f} … {max(values):.4f}",
                    "–" if start is None else f"{sum(v > start for v in values)}/{len(values)}",
                ]
            )
    return rows


def spread_table(base: Column | None, seeds: Sequence[Column]) -> list[str]:
    """The lines of that table in Markdown."""
    head = spread_head(len(seeds))
    rows = [head, ["---"] * len(head), *spread_rows(base, seeds)]
    return [f"| {' | '.join(row)} |" for row in rows]
