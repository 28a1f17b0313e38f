"""What a checkpoint was trained on, beside its weights: enough to tell it from what is measured.

Its file trained_on.json holds hashes of the questions, of the passages that were trained down, and
of the questions it was validated with, so that it says as much when the data are gone or were made
anew. Needs no torch.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from recipe.data.rows import digest
from recipe.durable import read_json
from recipe.training.groups import Group

TRAINED_ON_FILE = "trained_on.json"


class TrainedOn(msgspec.Struct, frozen=True):
    """Hashes (`recipe.data.rows.digest`), sorted, each once."""

    questions: list[str]
    negatives: list[str]
    validated: list[str] = []


def trained_on(groups: Iterable[Group], held_out: Iterable[Group] = ()) -> TrainedOn:
    """The questions of the groups, their passages after the first, and the questions by which the
    step is chosen."""
    questions: set[str] = set()
    negatives: set[str] = set()
    for group in groups:
        questions.add(group.query)
        negatives.update(group.passages[1:])
    validated = {group.query for group in held_out}
    return TrainedOn(
        *(sorted(set(map(digest, some))) for some in (questions, negatives, validated))
    )


def read_trained_on(checkpoint: Path) -> TrainedOn | None:
    """What the checkpoint says; None where it says nothing, as those of others."""
    return read_json(checkpoint / TRAINED_ON_FILE, TrainedOn)
