"""What came of a checkpoint, and whether it is what the table says."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from exporter.errors import ExportError
from exporter.pipeline import ExportArgs
from runtime.errors import ServingError
from tests.zoo.answers import Answers, difference
from tests.zoo.case import Case

Asking = Callable[[Path, ExportArgs], Answers]


@dataclass(frozen=True)
class Outcome:
    """How a checkpoint fared, and the message: the refusal, or the difference."""

    word: Literal["agrees", "differs", "refused"]
    message: str = ""


def outcome(case: Case, directory: Path, ask: Asking) -> Outcome:
    """What `ask` makes of the case's folder, against its witness."""
    try:
        adapter = case.args.adapter
        named = None if adapter is None else str(directory / adapter)
        found = ask(directory / case.source, replace(case.args, adapter=named))
    except (ExportError, ServingError) as error:
        return Outcome("refused", str(error))
    if case.witness is None:
        return Outcome("differs", "read, and no witness is there to say whether rightly")
    message = difference(found, case.witness(directory).answers())
    return Outcome("agrees") if message is None else Outcome("differs", message)


def complaint(case: Case, found: Outcome) -> str | None:
    """What is not as the table says; None where all is."""
    if case.refused is not None:
        if found.word == "refused" and case.refused in found.message:
            return None
        return f"wanted a refusal that says {case.refused!r}, found {found.word}: {found.message}"
    return None if found.word == "agrees" else f"{found.word}: {found.message}"
