"""Plot a request's stages: python -m benchmarks.stage_plot FILE, in an environment with matplotlib.
Writes an SVG beside the JSON file of benchmarks.stages."""

import json
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot

_WEB, _MODEL = "#b35806", "#1b7837"


def main(file: Path) -> None:
    """One panel per load, with a bar per stage, in the order of the stages."""
    mpl.use("svg")
    # Without it every run writes other identifiers into the same picture.
    mpl.rcParams["svg.hashsalt"] = "benchmarks"
    found = json.loads(file.read_text())
    loads = found["loads"]
    figure, panels = pyplot.subplots(
        1, len(loads), figsize=(6 * len(loads), 3.6), layout="constrained", squeeze=False
    )
    for axes, load in zip(panels[0], loads, strict=True):
        names = list(load["stages_ms"])
        spent = [max(0.0, load["stages_ms"][name]) for name in names]
        total = sum(load["stages_ms"].values())
        bars = axes.barh(
            names, spent, color=[_WEB if name in found["web"] else _MODEL for name in names]
        )
        axes.bar_label(bars, [f"{ms:.2f} ms, {ms / total:.1%}" for ms in spent], padding=3)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.5 * max(spent))
        axes.set_xlabel("milliseconds a request")
        web = sum(load["stages_ms"][name] for name in found["web"])
        axes.set_title(f"{load['title']}: {total:.1f} ms, web side {web / total:.1%}", fontsize=10)
    figure.suptitle(found["title"])
    figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
