"""The output folder of a bench: locked, and never overwriting foreign files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import OutputRefused
from runtime.outputs import locked_directory

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
