"""rerank report RUN: the page of a run, from what its stages left; `rerank run` ends with it.

One file without scripts and without anything from elsewhere. What is missing is said in its place.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from xml.etree.ElementTree import Element

from recipe.config import STAGE_NAMES, Recipe
from recipe.durable import write_atomic
from recipe.errors import Drifted, OutputRefused, RecipeError, Worsened
from recipe.progress import Log, stage_log
from recipe.reporting.data_part import data_part, origin_part, stages_part
from recipe.reporting.evaluation_part import (
    Evaluated,
    columns_part,
    guard_part,
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
def ends_with_report(recipe: Recipe) -> Iterator[None]:
    """Writes the page beside the folder of eval when the block ends, also when it ends because a
    model ranks worse. Raises OutputRefused before the block for a file that is no such page."""
    file = recipe.eval.home.parent / REPORT_FILE
    _refuse_foreign(file)
    homes = {name: getattr(recipe, name).home for name in STAGE_NAMES}
    try:
        yield
    except (Drifted, Worsened):
        write_report(file, stages_of(homes), stage_log("report"))
        raise
    write_report(file, stages_of(homes), stage_log("report"))


def write_report(file: Path, found: Run, log: Log) -> None:
    """Write the page of the stages that were found. Raises OutputRefused while eval works."""
    held = locked_directory(found["eval"].home) if "eval" in found else nullcontext()
    with held:
        write_atomic(file, page(f"Fine-tuning in {file.parent}", _parts(found)))
    log(f"{file}")


def _parts(found: Run) -> list[tuple[str, str, Sequence[Element]]]:
    evaluated = _evaluated(found)

    def stage(name: str, make: Callable[[StageRun], list[Element]]) -> list[Element]:
        if name not in found:
            return [_absent(f"The stage {name} has not run.")]
        return _shown(f"What the stage {name} left", lambda: make(found[name]))

    def measured(make: Callable[[Evaluated], list[Element]]) -> list[Element]:
        if isinstance(evaluated, Evaluated):
            return _shown("This", lambda: make(evaluated))
        return [evaluated]

    return [
        (
            "verdict",
            "Does it rank better?",
            measured(lambda one: [verdict(one), *tuning_part(one)]),
        ),
        ("columns", "From base to endpoint", measured(columns_part)),
        ("training", "Training", stage("finetune", training_part)),
        ("queries", "Queries", measured(queries_part)),
        ("scores", "Scores", measured(scores_part)),
        ("seeds", "Seeds", measured(lambda one: seeds_part(found["eval"], one))),
        ("guard", "Forgetting", stage("eval", guard_part)),
        ("data", "Data", stage("prep", data_part)),
        ("stages", "Stages", stages_part(found)),
        ("origin", "Settings and origin", origin_part(found)),
    ]


def _evaluated(found: Run) -> Evaluated | Element:
    """What was measured, or why it cannot be shown."""
    if "eval" not in found:
        return _absent("The stage eval has not run.")
    try:
        return read_evaluated(found["eval"].home)
    except _TROUBLE as error:
        return _absent(f"What was measured cannot be shown: {error}")


def _shown(what: str, make: Callable[[], list[Element]]) -> list[Element]:
    try:
        return make()
    except _TROUBLE as error:
        return [_absent(f"{what} cannot be shown: {error}")]


def _absent(text: str) -> Element:
    return element("p", text, class_="absent")


def _refuse_foreign(file: Path) -> None:
    """Raise OutputRefused for a file that this command did not write."""
    if not file.exists():
        return
    begin = file.read_bytes()[:_HEAD_BYTES] if file.is_file() else b""
    if GENERATOR.encode() not in begin:
        raise OutputRefused(f"{file} is no report of this command; move it away")
