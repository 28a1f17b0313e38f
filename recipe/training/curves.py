"""The curves of a training run: metrics.jsonl, one object per logged step, and curves.svg."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from recipe.durable import write_atomic
from recipe.picture import as_svg, new_figure

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
    write_atomic(directory / "metrics.jsonl", msgspec.json.Encoder().encode_lines(kept))
    write_atomic(directory / "curves.svg", _picture(history))


def _picture(history: Sequence[Mapping[str, Any]]) -> bytes:
    panels = [
        (title, drawn)
        for title, keys in _PANELS
        if (drawn := {word: _series(history, key) for key, word in keys.items()})
        and any(drawn.values())
    ]
    figure = new_figure(figsize=(4.5 * max(1, len(panels)), 3.2), layout="constrained")
    for axes, (title, drawn) in zip(
        figure.subplots(1, max(1, len(panels)), squeeze=False)[0], panels, strict=False
    ):
        for word, points in drawn.items():
            if points:
                axes.plot(*zip(*points, strict=True), label=word, marker=".")
        axes.set_xlabel("step")
        axes.set_title(title)
        axes.legend(fontsize="small")
    return as_svg(figure)


def _series(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(entry["step"], entry[key]) for entry in history if key in entry]
