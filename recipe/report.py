"""rerank report RUN: the page of a run, from what its stages left; `rerank run` ends with it.

One file without scripts and without anything from elsewhere. What is missing is said in its place.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from xml.etree.ElementTree import Element

from exporter.errors import ExportError
from recipe.addresses import public_address
from recipe.config import STAGE_NAMES, Recipe
from recipe.durable import write_atomic
from recipe.errors import OutputRefused, RecipeError
from recipe.evaluate import GUARD
from recipe.progress import Log, stage_log
from recipe.reporting.data_part import data_part, origin_part, stages_part
from recipe.reporting.evaluation_part import (
    Evaluated,
    columns_part,
    guard_part,
    left_behind,
    queries_part,
    read_evaluated,
    scores_part,
    seeds_part,
    tuning_part,
    verdict,
)
from recipe.reporting.markup import GENERATOR, element, page
from recipe.reporting.runs import Run, StageRun, stages_in, stages_of
from recipe.reporting.training_part import training_part
from runtime.errors import ServingError
from runtime.outputs import locked_directory

ABOUT = "write the page of a run: curves, differences, queries, data"
REPORT_FILE = "report.html"
_HEAD_BYTES = 1024
# Files that are missing, damaged or of other data.
_TROUBLE = (RecipeError, ServingError, OSError)
# What a stage raises on purpose.
FAILURES = (*_TROUBLE, ExportError)
Make = Callable[[], list[Element]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder."""
    parser.add_argument(
        "folder", metavar="RUN", type=Path, help="a run's folder, in which each stage has its own"
    )


def run(args: argparse.Namespace) -> int:
    """Write RUN/report.html."""
    file = args.folder / REPORT_FILE
    found = stages_in(args.folder)
    _refuse_foreign(file)
    write_report(file, found, stage_log("report"))
    return 0


@contextmanager
def ends_with_report(recipe: Recipe) -> Iterator[Callable[[str], None]]:
    """Writes the page beside the folder of eval when the block ends, also by an error, which stands
    on top. Yields what is called with the name of each stage that begins.

    Raises OutputRefused before the block for a file that is no such page.
    """
    file = recipe.eval.home.parent / REPORT_FILE
    _refuse_foreign(file)
    homes = {name: getattr(recipe, name).home for name in STAGE_NAMES}
    log, begun = stage_log("report"), [""]
    try:
        yield begun.append
    except FAILURES as error:
        _write_of_failure(file, stages_of(homes), log, f"The stage {begun[-1]} ended: {error}")
        raise
    except KeyboardInterrupt:
        _write_of_failure(file, stages_of(homes), log, f"The stage {begun[-1]} was interrupted.")
        raise
    write_report(file, stages_of(homes), log)


def _write_of_failure(file: Path, found: Run, log: Log, failure: str) -> None:
    """Write the page of a run that failed, if it can be written."""
    if not found:
        return
    try:
        write_report(file, found, log, public_address(failure))
    except FAILURES as error:
        log(f"{file} was not written: {error}")


def write_report(file: Path, found: Run, log: Log, failure: str = "") -> None:
    """Write the page of the stages that were found, with the `failure` on top.

    Raises OutputRefused while eval works.
    """
    held = locked_directory(found["eval"].home) if "eval" in found else nullcontext()
    with held:
        write_atomic(file, page(f"Fine-tuning in {file.parent}", _parts(found, failure)))
    log(f"{file}")


def _parts(found: Run, failure: str) -> list[tuple[str, str, Sequence[Element]]]:
    """Each part; what is missing or damaged is said in its place, and costs no other part."""
    evaluated, guard = _evaluated(found), _guard(found)

    def stage(name: str, make: Callable[[StageRun], list[Element]]) -> Make:
        return lambda: make(found[name]) if name in found else [_not_run(name)]

    def of(read: Evaluated | Element, make: Callable[[Evaluated], list[Element]]) -> Make:
        return lambda: make(read) if isinstance(read, Evaluated) else [read]

    def verdicts(one: Evaluated) -> list[Element]:
        forgotten = []
        if "eval" in found and found["eval"].settings.get("guard_data_path") is not None:
            forgotten = of(guard, lambda other: [verdict(other, "Against forgetting: ")])()
        return [*left_behind(one), verdict(one), *forgotten, *tuning_part(one)]

    parts: list[tuple[str, str, Make]] = [
        ("verdict", "Does it rank better?", of(evaluated, verdicts)),
        ("columns", "From base to endpoint", of(evaluated, columns_part)),
        ("training", "Training", stage("finetune", training_part)),
        ("queries", "Queries", of(evaluated, queries_part)),
        ("scores", "Scores", of(evaluated, scores_part)),
        ("seeds", "Seeds", of(evaluated, lambda one: seeds_part(found["eval"], one))),
        ("guard", "Forgetting", of(guard, guard_part)),
        ("data", "Data", stage("prep", data_part)),
        ("stages", "Stages", lambda: stages_part(found)),
        ("origin", "Settings and origin", lambda: origin_part(found)),
    ]
    if failure:
        parts.insert(0, ("failure", "The run did not end well", lambda: [_absent(failure)]))
    return [(name, heading, _shown(make)) for name, heading, make in parts]


def _evaluated(found: Run) -> Evaluated | Element:
    """What was measured, or why it cannot be shown."""
    return _read(found["eval"].home) if "eval" in found else _not_run("eval")


def _guard(found: Run) -> Evaluated | Element:
    """The same of the second set."""
    if "eval" not in found:
        return _not_run("eval")
    if found["eval"].settings.get("guard_data_path") is None:
        return _absent("No second set was given: guard_data_path=PATH looks for what is forgotten.")
    return _read(found["eval"].home / GUARD)


def _read(home: Path) -> Evaluated | Element:
    try:
        return read_evaluated(home)
    except Exception as error:
        return _unshown(error)


def _shown(make: Make) -> list[Element]:
    try:
        return make()
    except Exception as error:
        return [_unshown(error)]


def _unshown(error: Exception) -> Element:
    """Why something cannot be shown: no error in one part may cost the page."""
    kind = "" if isinstance(error, _TROUBLE) else f"{type(error).__name__}: "
    return _absent(f"This cannot be shown: {kind}{error}")


def _not_run(name: str) -> Element:
    return _absent(f"The stage {name} has not run.")


def _absent(text: str) -> Element:
    return element("p", text, class_="absent")


def _refuse_foreign(file: Path) -> None:
    """Raise OutputRefused for a file that this command did not write."""
    if not file.exists():
        return
    begin = file.read_bytes()[:_HEAD_BYTES] if file.is_file() else b""
    if GENERATOR.encode() not in begin:
        raise OutputRefused(f"{file} is no report of this command; move it away")
