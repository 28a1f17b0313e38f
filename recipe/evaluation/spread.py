"""What several seeds of one training give: mean and spread of each measure."""

from collections.abc import Sequence
from statistics import fmean, stdev

from recipe.evaluation.measured import COMPARED
from recipe.evaluation.results import Column


def spread_table(base: Column | None, seeds: Sequence[Column]) -> list[str]:
    """The lines of a table over at least two columns, one for each seed, beside the base's."""
    lines = [
        f"| measure | base | mean of {len(seeds)} seeds | standard deviation | least … greatest | "
        "seeds above base |",
        "|---|---|---|---|---|---|",
    ]
    for measure in COMPARED:
        for key in getattr(seeds[0], measure):
            values = [getattr(column, measure)[key] for column in seeds]
            start = None if base is None else getattr(base, measure)[key]
            above = "–" if start is None else f"{sum(one > start for one in values)}/{len(values)}"
            lines.append(
                f"| {key} | {'–' if start is None else f'{start:.4f}'} | {fmean(values):.4f} | "
                f"{stdev(values):.4f} | {min(values):.4f} … {max(values):.4f} | {above} |"
            )
    return lines
