"""Plots of a run: python -m benchmarks.plots PATH, in an environment with matplotlib.

PATH is the folder of a bench: results.json there gives one SVG per scenario and one per growth
series. Or it is a JSON file of benchmarks.stages, which gets an SVG of its stages beside it.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

_OURS, _PEER = "#1b7837", "#8c8c8c"
_WEB, _MODEL = "#b35806", "#1b7837"
_GROWTH = "growth"


def main(path: Path) -> None:
    """Draw everything that was measured."""
    mpl.use("svg")
    # Without it every run writes other identifiers into the same picture.
    mpl.rcParams["svg.hashsalt"] = "benchmarks"
    if path.is_dir():
        _draw_run(json.loads((path / "results.json").read_text()), path)
    else:
        _draw_stages(json.loads(path.read_text()), path.with_suffix(".svg"))


def _draw_run(results: Any, folder: Path) -> None:
    series: dict[tuple[str, str], list[Any]] = {}
    for number, point in enumerate(results["points"]):
        if point["scenario"] == _GROWTH:
            series.setdefault((point["model"], point["axis"]), []).append(point)
        elif rates := _rates(point):
            _draw_bars(results, point, rates, folder / f"{number:02d}-{point['scenario']}.svg")
    for (model, axis), points in series.items():
        if any(_rates(point) for point in points):
            _draw_lines(results, points, folder / f"growth-{model}-{axis}.svg")


def _rates(point: Any) -> dict[str, list[float]]:
    """Tokens per second of each repeat, of the candidates that were measured."""
    return {
        name: [point["tokens"] / sample["seconds"] for sample in measured["samples"]]
        for name, measured in point["measured"].items()
        if measured["samples"]
    }


def _draw_bars(results: Any, point: Any, rates: dict[str, list[float]], file: Path) -> None:
    """Tokens per second, with the range of the repeats as a line on each bar."""
    names = sorted(rates, key=lambda name: statistics.median(rates[name]))
    middles = [statistics.median(rates[name]) for name in names]
    lows = [m - min(rates[n]) for n, m in zip(names, middles, strict=True)]
    highs = [max(rates[n]) - m for n, m in zip(names, middles, strict=True)]
    colours = [_OURS if results["candidates"][name]["ours"] else _PEER for name in names]
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.3 * len(names)), layout="constrained")
    axes.barh(names, middles, xerr=[lows, highs], color=colours, capsize=2)
    axes.set_xlabel("tokens/s, median and range of the repeats")
    axes.set_title(point["label"])
    _write(figure, file)


def _draw_lines(results: Any, points: list[Any], file: Path) -> None:
    drawn: dict[str, list[tuple[int, float]]] = {}
    for point in points:
        found = _rates(point)
        for name in point["measured"]:
            medians = [(point["value"], statistics.median(found[name]))] if name in found else []
            drawn.setdefault(name, []).extend(medians)
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for name, places in drawn.items():
        if places:
            style = "-o" if results["candidates"][name]["ours"] else "--s"
            axes.plot(*zip(*places, strict=True), style, label=name, markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(points[0]["axis"])
    axes.set_ylabel("tokens/s")
    axes.set_title(f"{points[0]['model']}: growth in {points[0]['axis']}")
    axes.legend(fontsize="small")
    _write(figure, file)


def _draw_stages(found: Any, file: Path) -> None:
    """One panel per load, with a bar per stage, in the order of the stages."""
    loads = found["loads"]
    figure, panels = pyplot.subplots(
        1, len(loads), figsize=(6 * len(loads), 3.6), layout="constrained", squeeze=False
    )
    for axes, load in zip(panels[0], loads, strict=True):
        stages = load["stages_ms"]
        spent = [max(0.0, ms) for ms in stages.values()]
        total, web = sum(stages.values()), sum(stages[name] for name in found["web"])
        colours = [_WEB if name in found["web"] else _MODEL for name in stages]
        bars = axes.barh(list(stages), spent, color=colours)
        axes.bar_label(bars, [f"{ms:.2f} ms, {ms / total:.1%}" for ms in spent], padding=3)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.5 * max(spent))
        axes.set_xlabel("milliseconds a request")
        axes.set_title(f"{load['title']}: {total:.1f} ms, web side {web / total:.1%}", fontsize=10)
    figure.suptitle(found["title"])
    _write(figure, file)


def _write(figure: Any, file: Path) -> None:
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
