"""The stages, in the order of the pipeline, and the other commands: one row each.

A command is a module with `ABOUT` (one line), `add_arguments(parser)` and `run(args) -> int`,
which takes the parsed arguments and returns the exit code. Importing these modules must be cheap:
torch is imported where it is used.
"""

from types import ModuleType
from typing import Any

from recipe import compare, deploy, evaluate, export, finetune, inspection, prep, report, score, sdg
from recipe.stage import Stage

STAGES: tuple[Stage[Any], ...] = (
    sdg.STAGE,
    prep.STAGE,
    finetune.STAGE,
    evaluate.STAGE,
    export.STAGE,
    deploy.STAGE,
)

COMMANDS: dict[str, ModuleType] = {
    "compare": compare,
    "data": inspection,
    "report": report,
    "score": score,
}
