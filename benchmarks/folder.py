"""The folder that a bench writes to: for one at a time, and never over other people's files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import OutputRefused
from runtime.outputs import locked_directory

RESULTS_FILE, REPORT_FILE = "results.json", "report.md"


@contextmanager
def results_folder(folder: Path) -> Iterator[None]:
    """Make the folder and have it alone. Raises OutputRefused where a report lies in it without its
    results, which no bench leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked_directory(folder):
        if (folder / REPORT_FILE).exists() and not (folder / RESULTS_FILE).exists():
            raise OutputRefused(
                f"{folder / REPORT_FILE} is not a bench's, for {RESULTS_FILE} is not beside it; "
                "name another --out"
            )
        yield
