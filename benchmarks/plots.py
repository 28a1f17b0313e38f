"""Plots of a run: python -m benchmarks.plots FOLDER, in an environment with matplotlib.

Reads results.json in FOLDER and writes one SVG per scenario and one per growth series.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

_OURS, _PEER = "#1b7837", "#8c8c8c"
_GROWTH = "growth"


def main(folder: Path) -> None:
    """Draw everything that was measured."""
    mpl.use("svg")
    # Without it every run writes other identifiers into the same picture.
    mpl.rcParams["svg.hashsalt"] = "benchmarks"
    results = json.loads((folder / "results.json").read_text())
    for number, point in enumerate(results["points"]):
        if point["scenario"] != _GROWTH and any(_rates(point, n) for n in point["measured"]):
            _draw_bars(results, point, folder / f"{number:02d}-{point['scenario']}.svg")
    series: dict[tuple[str, str], list[Any]] = {}
    for point in results["points"]:
        if point["scenario"] == _GROWTH:
            series.setdefault((point["model"], point["axis"]), []).append(point)
    for (model, axis), points in series.items():
        if any(_rates(point, name) for point in points for name in point["measured"]):
            _draw_lines(results, points, folder / f"growth-{model}-{axis}.svg")


def _rates(point: Any, name: str) -> list[float]:
    return [point["tokens"] / sample["seconds"] for sample in point["measured"][name]["samples"]]


def _draw_bars(results: Any, point: Any, file: Path) -> None:
    """Tokens per second, with the range of the repeats as a line on each bar."""
    found = {name: _rates(point, name) for name in point["measured"] if _rates(point, name)}
    names = sorted(found, key=lambda name: statistics.median(found[name]))
    middles = [statistics.median(found[name]) for name in names]
    lows = [m - min(found[n]) for n, m in zip(names, middles, strict=True)]
    highs = [max(found[n]) - m for n, m in zip(names, middles, strict=True)]
    colours = [_OURS if results["candidates"][name]["ours"] else _PEER for name in names]
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.3 * len(names)), layout="constrained")
    axes.barh(names, middles, xerr=[lows, highs], color=colours, capsize=2)
    axes.set_xlabel("tokens/s, median and range of the repeats")
    axes.set_title(point["label"])
    _write(figure, file)


def _draw_lines(results: Any, points: list[Any], file: Path) -> None:
    names = list(dict.fromkeys(name for point in points for name in point["measured"]))
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for name in names:
        drawn = [
            (point["value"], statistics.median(found))
            for point in points
            if name in point["measured"] and (found := _rates(point, name))
        ]
        if drawn:
            style = "-o" if results["candidates"][name]["ours"] else "--s"
            axes.plot(*zip(*drawn, strict=True), style, label=name, markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(points[0]["axis"])
    axes.set_ylabel("tokens/s")
    axes.set_title(f"{points[0]['model']}: growth in {points[0]['axis']}")
    axes.legend(fontsize="small")
    _write(figure, file)


def _write(figure: Any, file: Path) -> None:
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
