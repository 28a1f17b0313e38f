"""The curves of a training run: metrics.jsonl, one object per logged step, and curves.svg."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from recipe.durable import write_atomic
from recipe.picture import as_svg, new_figure

Points = list[tuple[int, float]]
# A title, and the curves by their names.
Panel = tuple[str, dict[str, Points]]
METRICS_FILE = "metrics.jsonl"
# Keys in a line of metrics.jsonl; no run times, so that equal runs give equal files.
_KEPT = (
    "step",
    "epoch",
    "loss",
    "grad_norm",
    "learning_rate",
    "eval_loss",
    "eval_mrr",
    "eval_accuracy",
)
_PANELS = (
    ("loss", {"loss": "training", "eval_loss": "validation"}),
    ("learning rate", {"learning_rate": "learning rate"}),
    ("validation", {"eval_mrr": "MRR", "eval_accuracy": "positive first"}),
)


def write_curves(directory: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write both files from the whole log so far, each atomically."""
    entries = [{key: entry[key] for key in _KEPT if key in entry} for entry in history]
    kept = [entry for entry in entries if "loss" in entry or "eval_loss" in entry]
    write_atomic(directory / METRICS_FILE, msgspec.json.Encoder().encode_lines(kept))
    write_atomic(directory / "curves.svg", _picture(history))


def panels(history: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """What there is to draw of a log, each with its title."""
    found = [
        (title, {word: _series(history, key) for key, word in keys.items()})
        for title, keys in _PANELS
    ]
    return [
        (title, {word: points for word, points in drawn.items() if points})
        for title, drawn in found
        if any(drawn.values())
    ]


def draw_panel(axes: Any, drawn: Mapping[str, Points]) -> None:
    """Draw curves, over the steps."""
    for word, points in drawn.items():
        axes.plot(*zip(*points, strict=True), label=word, marker=".")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("step")
    axes.legend(fontsize="small", frameon=False)


def _picture(history: Sequence[Mapping[str, Any]]) -> bytes:
    found = panels(history)
    figure = new_figure(figsize=(4.5 * max(1, len(found)), 3.2), layout="constrained")
    axes = figure.subplots(1, max(1, len(found)), squeeze=False)[0]
    for one, (title, drawn) in zip(axes, found, strict=False):
        draw_panel(one, drawn)
        one.set_title(title)
    return as_svg(figure)


def _series(history: Sequence[Mapping[str, Any]], key: str) -> Points:
    return [(entry["step"], entry[key]) for entry in history if key in entry]
