"""The protocol between bench and candidates. Standard library only, for any environment.

A candidate is started with one argument, a JSON object of Setting's fields. A line-based candidate
writes {"ready": true} once it can score; then each line {"query", "passages"} on its standard input
gets one line {"scores"} (raw logits in the order of the passages) or {"error"}. An HTTP candidate
answers at the setting's port instead.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from runtime.telemetry import disable_telemetry

Score = Callable[[str, list[str]], list[float]]


@dataclass(frozen=True)
class Setting:
    """The argument of a candidate.

    `checkpoint` is a folder that transformers reads with trust_remote_code; `graph` one with
    model.onnx and tokenizer/, or empty; `work` a folder to write to. `template` contains {query}
    and {passage}, or is None where the tokenizer joins the pair. `options` are those of the
    candidate's row.
    """

    checkpoint: str
    graph: str
    work: str
    template: str | None
    max_tokens: int
    threads: int
    port: int
    options: dict[str, Any]

    def to_argument(self) -> str:
        """The argument that `read_setting` reads."""
        return json.dumps(asdict(self))


def read_setting() -> Setting:
    """The setting of this process."""
    return Setting(**json.loads(sys.argv[1]))


def templated(template: str, query: str, passage: str) -> str:
    """The text of a pair, for families with a template."""
    head, tail = template.split("{passage}")
    return head.replace("{query}", query) + passage + tail


def answer_lines(load: Callable[[Setting], Score]) -> None:
    """Load, write ready, and answer every line until standard input ends."""
    disable_telemetry()
    answers = _take_stdout()
    score = load(read_setting())
    _write(answers, {"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            found = score(asked["query"], asked["passages"])
        except Exception as error:  # reported by the bench, whatever a library raises
            _write(answers, {"error": f"{type(error).__name__}: {error}"[:500]})
        else:
            _write(answers, {"scores": [float(one) for one in found]})


def _take_stdout() -> TextIO:
    """Reserve standard output for answers: libraries that print get standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _write(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()
