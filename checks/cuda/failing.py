"""A failure while an engine runs: python -m checks.cuda.failing QUESTION ANSWER plays it under the
fake CUDA and writes the error that the engine raises, and whether a small call computes afterwards.
A process each: a lost device stays lost."""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import msgspec

from checks.cuda.probe import Case, inputs_for, opened
from runtime.engines import Engine, EngineSetup
from runtime.errors import ServingError
from runtime.telemetry import disable_telemetry

_SMALL, _LARGE = (1, 16), (64, 512)
_ROOM_BYTES = 1 << 20
_LOST, _FAULT, _MEMORY = "FAKE_LOST", "FAKE_FAULT", "FAKE_MEMORY"


class Question(msgspec.Struct):
    """One of FAILURES by name, and the graph."""

    failure: str
    case: Case


class Outcome(msgspec.Struct):
    """The class of the error of a call; `afterwards` of the next small call, "" if it computed."""

    error: str
    afterwards: str


def beyond_the_limit(case: Case) -> Outcome:
    """A call beyond the memory that the engine may take."""
    setup = EngineSetup(precision=case.precision, memory_bytes=_ROOM_BYTES)
    with closing(opened(case, setup)) as engine:
        return _outcome(engine, case)


def on_a_full_card(case: Case) -> Outcome:
    """A call beyond the memory of the card."""
    with closing(opened(case, EngineSetup(precision=case.precision))) as engine:
        engine.run(inputs_for(case, *_SMALL))
        os.environ[_MEMORY] = str(_ROOM_BYTES)
        return _outcome(engine, case)


def seen_by_a_copy(case: Case) -> Outcome:
    """A device that has failed between two calls."""
    with closing(opened(case, EngineSetup(precision=case.precision))) as engine:
        Path(os.environ[_LOST]).touch()
        return _outcome(engine, case)


def seen_by_cublas(case: Case) -> Outcome:
    """A kernel's fault that the next product is the first to see, without a code of CUDA."""
    with closing(opened(case, EngineSetup(precision=case.precision))) as engine:
        os.environ[_FAULT] = "1"
        return _outcome(engine, case)


FAILURES: Mapping[str, Callable[[Case], Outcome]] = {
    play.__name__: play
    for play in (beyond_the_limit, on_a_full_card, seen_by_a_copy, seen_by_cublas)
}


def _outcome(engine: Engine, case: Case) -> Outcome:
    return Outcome(*(_error(engine, case, shape) for shape in (_LARGE, _SMALL)))


def _error(engine: Engine, case: Case, shape: tuple[int, int]) -> str:
    try:
        engine.run(inputs_for(case, *shape))
    except ServingError as error:
        return type(error).__name__
    return ""


def main(question: Path, answer: Path) -> int:
    """Play the failure in `question`."""
    disable_telemetry()
    asked = msgspec.json.decode(question.read_bytes(), type=Question)
    answer.write_bytes(msgspec.json.encode(FAILURES[asked.failure](asked.case)))
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
