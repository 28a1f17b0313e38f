"""The examples of a run: what is read, and which negatives an example has in which epoch."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from recipe.config import FinetuneConfig
from recipe.progress import Log
from recipe.training.groups import Group, read_groups
from recipe.training.job import validation_file


def read_examples(settings: FinetuneConfig, log: Log) -> tuple[list[Group], list[Group] | None]:
    """The groups for training, with all negatives that an epoch may draw, and those for validation.

    Raises BadInput.
    """
    validation, passages = validation_file(settings), settings.train_n_passages
    train = read_groups(
        Path(settings.train_data_path), passages, validation, log, every=settings.sample_negatives
    )
    held_out = None if validation is None else read_groups(validation, passages, split="val")
    return train, held_out


class Examples:
    """The groups by (epoch, index), each with `passages` of its passages.

    The negatives of a group that has more are drawn without replacement. The draw depends on seed,
    epoch and index alone, so a stopped run, or one on other processes, draws the same.
    """

    def __init__(self, groups: Sequence[Group], passages: int, seed: int) -> None:
        self._groups, self._passages, self._seed = groups, passages, seed

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, place: tuple[int, int]) -> Group:
        epoch, index = place
        group = self._groups[index]
        if len(group.passages) <= self._passages:
            return group
        random = np.random.default_rng((self._seed, epoch, index))
        drawn = random.choice(len(group.passages) - 1, self._passages - 1, replace=False)
        kept = [0, *(1 + drawn).tolist()]
        return replace(
            group,
            passages=tuple(group.passages[number] for number in kept),
            scores=tuple(group.scores[number] for number in kept if group.scores),
        )
