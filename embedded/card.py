"""The model cards: the README.md of rank/ and embed/, with the facts of a new training in them."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

_HERE = Path(__file__).parent


def write(
    kind: str,
    *,
    seed: int,
    parameters: int,
    vocabulary: int,
    longest: int,
    seconds: dict[str, float],
    sources: dict[str, str],
    figures: dict[str, float],
    examples: Iterable[tuple[str, list[float]]],
) -> str:
    """The card of the ``kind`` rank or embed as Markdown; its sentences are kept.

    ``seconds`` maps a stage to its wall time, ``sources`` a Debian package to its version.
    """
    card = (_HERE / kind / "README.md").read_text("utf-8")
    cores = f"{os.cpu_count() or 1} {platform.machine()} cores"
    pinned = (_HERE / "requirements.txt").read_text("utf-8").splitlines()
    tools = [line.partition("==")[0] for line in pinned if "==" in line]
    for place, fact in {
        r"(?<=--seed )\d+": seed,
        r"(?<=\(`make embedded`\) on ).*? cores": cores,
        r"[\d,]+(?= parameters)": f"{parameters:,}",
        r"(?<=BPE with )\d+": vocabulary,
        r"(?<= of at most )\d+(?= tokens;)": longest,
        r"(?<=of text each\):\n).*": ", ".join(map(" ".join, sources.items())) + ".",
        r"(?<=\nTools: ).*": ", ".join(f"{name} {version(name)}" for name in tools) + ".",
        _rows_under("stage", "seconds"): _rows(
            (seconds | {"together": round(sum(seconds.values()))}).items()
        ),
        _rows_under("order", "nDCG@10"): _rows(figures.items() or [("not measured", "-")]),
        _rows_under("query", "logits"): _rows(
            (query, ", ".join(map(str, row))) for query, row in examples
        ),
    }.items():
        card = re.sub(place, lambda _, fact=fact: str(fact), card)
    return card


def _rows_under(one: str, other: str) -> str:
    """What matches the rows of the table with these two columns."""
    return rf"(?<={re.escape(f'| {one} | {other} |')}\n\|---\|---\|\n)(\|.*\n)+"


def _rows(pairs: Iterable[tuple[str, object]]) -> str:
    return "".join(f"| {name} | {value} |\n" for name, value in pairs)
