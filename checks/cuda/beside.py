"""Two models in one process: python -m checks.cuda.beside QUESTION ANSWER lets one capture a CUDA
graph while the other one is called, and writes what happened. ONNX Runtime's captures forbid other
threads most calls of CUDA, so the other call has to wait."""

import os
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import msgspec

from checks.cuda.probe import CAPTURED, GRAPH_TOKENS, Case, inputs_for, opened
from checks.cuda.trace import VARIABLE, listening
from runtime.engines import EngineSetup
from runtime.telemetry import disable_telemetry

_HOLD = "FAKE_HOLD"
_PATIENCE_S = 60.0
# A call under the fake takes a few milliseconds.
_ENOUGH_S = 0.5


class Question(msgspec.Struct):
    """The graph that is captured, and the one that is called meanwhile."""

    captured: Case
    other: Case


class Outcome(msgspec.Struct):
    """Whether the graph was captured and the other call `waited`; calls that were `illegal`."""

    captured: int
    waited: bool
    illegal: list[str]


def play(asked: Question) -> Outcome:
    """Capture, and call the other model before the capture ends."""
    hold, trace = Path(os.environ[_HOLD]), Path(os.environ[VARIABLE])
    with_graphs = EngineSetup(precision=asked.captured.precision, graph_tokens=GRAPH_TOKENS)
    plain = EngineSetup(precision=asked.other.precision)
    with (
        closing(opened(asked.captured, with_graphs)) as one,
        closing(opened(asked.other, plain)) as other,
    ):
        calls = [
            threading.Thread(target=engine.run, args=(inputs_for(case, *CAPTURED),), daemon=True)
            for engine, case in ((one, asked.captured), (other, asked.other))
        ]
        hold.touch()
        with listening() as heard:
            calls[0].start()
            end = time.monotonic() + _PATIENCE_S
            while "graph begin" not in trace.read_text() and time.monotonic() < end:
                time.sleep(0.01)
            calls[1].start()
            calls[1].join(_ENOUGH_S)
            waited = calls[1].is_alive()
            hold.unlink()
            for call in calls:
                call.join(_PATIENCE_S)
    return Outcome(heard.counts.captured, waited, heard.counts.illegal)


def main(question: Path, answer: Path) -> int:
    """Play what `question` asks."""
    disable_telemetry()
    asked = msgspec.json.decode(question.read_bytes(), type=Question)
    answer.write_bytes(msgspec.json.encode(play(asked)))
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
