"""Towers over an engine that computes means."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import pytest

from runtime.vision.limits import VisionLimits
from runtime.vision.tower import Tower
from tests.runtime.vision.towers import Engine, Make
from tests.vision_rules import VISION


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def tower(engine: Engine) -> Iterator[Make]:
    with ExitStack() as stack:

        def make(**limits: Any) -> Tower:
            made = Tower(engine, VISION, replace(VisionLimits(call_tiles=8), **limits))  # type: ignore[arg-type]
            stack.enter_context(closing(made))
            return made

        yield make
        engine.gate.set()
