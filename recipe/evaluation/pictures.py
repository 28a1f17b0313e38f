"""Pictures of differences: each on an axis of its own size, with its 95 % interval."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recipe.evaluation.significance import Gain
from recipe.picture import as_svg, new_figure

# Half the height of a bar's row, in inches; of the axis and its labels.
_ROW, _FRAME = 0.28, 0.9
_BINS = 20


def gains_height(rows: int) -> float:
    """The height, in inches, of a figure of so many differences."""
    return max(1.8, _FRAME + _ROW * rows)


def draw_gains(axes: Any, gains: Mapping[str, Gain]) -> None:
    """A difference in each row, the first on top, with its interval and a line at zero."""
    places = list(range(len(gains)))[::-1]
    means = [one.difference for one in gains.values()]
    # A percentile interval of a skewed difference may end before it.
    below = [max(0.0, one.difference - one.low) for one in gains.values()]
    above = [max(0.0, one.high - one.difference) for one in gains.values()]
    axes.errorbar(means, places, xerr=[below, above], fmt="o", capsize=3)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, list(gains))
    axes.set_ylim(-0.6, len(gains) - 0.4)
    axes.set_xlabel("difference, with its 95 % interval")


def draw_order(axes: Any, taus: Mapping[str, float | None], least: float) -> None:
    """Kendall's tau of each step, on an axis that ends at 1, with a line at the `least` allowed."""
    found = {name: tau for name, tau in taus.items() if tau is not None}
    places = list(range(len(found)))[::-1]
    axes.plot(list(found.values()), places, "o")
    axes.axvline(least, color="black", linewidth=0.8, linestyle="--")
    axes.set_yticks(places, list(found))
    axes.set_ylim(-0.6, max(1, len(found)) - 0.4)
    lowest = min([least, *found.values()])
    room = (1 - lowest) / 10
    axes.set_xlim(lowest - room, 1 + room)
    axes.set_xlabel(f"Kendall's tau (dashed: {least}, the least allowed)")


def draw_moves(axes: Any, moves: Sequence[float], measure: str) -> None:
    """How many queries moved by how much; those that did not are left out."""
    moved = [one for one in moves if one]
    widest = max(map(abs, moved), default=1.0)
    edges = np.linspace(-widest, widest, _BINS + 1)
    axes.hist([one for one in moved if one < 0], bins=edges, color="C1", label="lost")
    axes.hist([one for one in moved if one > 0], bins=edges, color="C0", label="won")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"difference of {measure}")
    axes.set_ylabel("queries")
    axes.legend(fontsize="small", frameon=False)


def drift_picture(
    measures: tuple[str, Mapping[str, Gain]],
    columns: tuple[str, Mapping[str, Gain]],
    taus: Mapping[str, float | None],
    least_tau: float,
) -> bytes:
    """drift.svg: differences of one pair at each measure, of each pair at one, each with its title,
    and the order at each step."""
    rows = max(len(measures[1]), len(columns[1]), len(taus))
    figure = new_figure(figsize=(13.5, gains_height(rows) + 0.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, (title, gains) in ((left, measures), (middle, columns)):
        draw_gains(axes, gains)
        axes.set_title(title)
    draw_order(right, taus, least_tau)
    right.set_title("Order of the passages")
    return as_svg(figure)
