"""Stages that keep their results: an interrupted run continues where it stopped.

Every stage leaves ``<name>.pickle`` and its wall time in ``seconds.json`` in one folder. Delete the
folder to start over; changed code is not detected.
"""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from runtime.outputs import write_atomic, write_json

Result = TypeVar("Result")


class Stages:
    """The stages of one seed in one folder; `stage` makes a method one of them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def seconds(self) -> dict[str, float]:
        """Wall seconds of every finished stage, by name, in the order of running."""
        file = self.folder / "seconds.json"
        return json.loads(file.read_text("utf-8")) if file.exists() else {}

    def run(self) -> None:
        """Compute the stages in the order of the class, so that none is timed within another."""
        for name, value in vars(type(self)).items():
            if isinstance(value, cached_property):
                getattr(self, name)

    def keep(self, name: str, make: Callable[[], Result]) -> Result:
        """The stored result of a stage, or the result of ``make``, which is then stored."""
        file = self.folder / f"{name}.pickle"
        if file.exists():
            print(f"{name}: kept from an earlier run", flush=True)
            return pickle.loads(file.read_bytes())
        print(f"{name} ...", flush=True)
        began = time.monotonic()
        result = make()
        took = round(time.monotonic() - began, 1)
        write_atomic(file, pickle.dumps(result))
        write_json(self.folder / "seconds.json", self.seconds() | {name: took})
        print(f"{name}: {took} s", flush=True)
        return result


def stage(name: str) -> Callable[[Callable[[Any], Result]], cached_property[Result]]:
    """Make a method of Stages a property whose value is kept under this name."""
    return lambda make: cached_property(lambda self: self.keep(name, lambda: make(self)))
