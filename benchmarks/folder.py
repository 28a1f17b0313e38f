"""The output folder of a bench: locked, and never overwriting foreign files."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.errors import OutputRefused
from runtime.outputs import locked_directory, write_atomic

RESULTS_FILE, REPORT_FILE = "results.json", "report.md"


@contextmanager
def results_folder(folder: Path) -> Iterator[None]:
    """Make and lock the folder. Raises OutputRefused when it has a report without results, which
    no bench leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked_directory(folder):
        if (folder / REPORT_FILE).exists() and not (folder / RESULTS_FILE).exists():
            raise OutputRefused(
                f"{folder / REPORT_FILE} is not from a bench: {RESULTS_FILE} is not beside it; "
                "name another --out"
            )
        yield


def save(folder: Path, results: Mapping[str, Any], report: str) -> None:
    """Write both; after every step, so that an interrupted run keeps its results."""
    write_atomic(folder / RESULTS_FILE, json.dumps(results, indent=1).encode())
    write_atomic(folder / REPORT_FILE, report.encode())
