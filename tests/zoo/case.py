"""One checkpoint of the zoo: how its folder is made, who witnesses it, what must come of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from exporter.pipeline import ExportArgs
from tests.zoo.weights import Step
from tests.zoo.witness import Making


@dataclass(frozen=True)
class Case:
    """A checkpoint of `family` in the `layout`, which `steps` make in this order, exported as
    `args` says.

    The checkpoint is the folder `source` in it, beside which the adapter of `args` is. It must
    agree with its `witness`, or be `refused` with a message that has this part. A refused one needs
    no witness but to show that an export would be wrong.
    """

    family: str
    layout: str
    steps: Sequence[Step]
    witness: Making | None = None
    refused: str | None = None
    source: str = ""
    args: ExportArgs = field(default_factory=ExportArgs)

    @property
    def name(self) -> str:
        """For folders and reports."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.family} {self.layout}".lower()).strip("-")

    def build(self, directory: Path) -> Path:
        """Make the folder."""
        directory.mkdir(parents=True, exist_ok=True)
        for step in self.steps:
            step(directory)
        return directory
