"""The steps of a training run: batch and warm-up by the number of examples."""

from pathlib import Path

import msgspec
import pytest

from recipe.config import FinetuneConfig
from recipe.errors import BadConfig
from recipe.training.job import (
    Schedule,
    accumulated_passes,
    recorded_schedule,
    refuse_other_processes,
    schedule,
    validation_file,
)

DEFAULTS = FinetuneConfig()


def of(examples: int, processes: int = 1, **given: int) -> Schedule:
    return schedule(msgspec.structs.replace(DEFAULTS, **given), examples, processes)


@pytest.mark.parametrize(
    ("examples", "processes", "batch", "steps", "warmup"),
    [
        (810, 1, 64, 36, 35),  # as NVIDIA's own test has it
        (500, 1, 60, 24, 23),
        (500, 2, 56, 24, 23),
        (500, 4, 48, 30, 29),
        (500, 8, 32, 45, 44),
        (40, 1, 16, 6, 5),
        (40, 8, 128, 3, 2),  # nothing smaller fits eight processes
        (3, 1, 16, 3, 2),
        (1999, 1, 64, 93, 92),
        (2000, 1, 128, 45, 44),
        (6400, 1, 128, 150, 100),
    ],
)
def test_batch_and_warm_up_follow_the_examples(
    examples: int, processes: int, batch: int, steps: int, warmup: int
) -> None:
    found = of(examples, processes)
    assert (found.batch, found.steps, found.warmup) == (batch, steps, warmup)
    accumulated_passes(found.batch, DEFAULTS.local_batch_size, processes)


def test_a_batch_that_was_asked_for_stays() -> None:
    assert of(810, global_batch_size=32).batch == 32


def test_a_run_that_only_warms_up_is_known() -> None:
    assert of(810).warms_up_only
    assert not of(810, lr_warmup_steps=4).warms_up_only
    assert not of(810, lr_warmup_steps=0).warms_up_only
    assert not of(6400).warms_up_only
    assert "rose through all 36 steps" in of(810).warning
    assert of(6400).warning == ""


def test_a_run_of_one_step_learns_only_without_a_warm_up() -> None:
    one = of(20, global_batch_size=20, num_epochs=1)
    assert (one.steps, one.warmup) == (1, 1)
    assert "the only step was 0, so nothing was learned" in one.warning
    assert of(20, global_batch_size=20, num_epochs=1, lr_warmup_steps=0).warning == ""


def test_the_default_batch_is_taken_for_not_asked_for() -> None:
    assert of(810, global_batch_size=128).batch == 64


def test_a_run_goes_on_with_its_batch_on_other_processes(tmp_path: Path) -> None:
    began = recorded_schedule(tmp_path, DEFAULTS, 500, 1)
    assert recorded_schedule(tmp_path, DEFAULTS, 500, 2) == began
    for processes in (1, 3, 5, 15):
        refuse_other_processes(began, msgspec.structs.replace(DEFAULTS, processes=processes))
    with pytest.raises(BadConfig, match=r"found processes = 2, .* 60 examples .* of 1, 3, 5, 15,"):
        refuse_other_processes(began, msgspec.structs.replace(DEFAULTS, processes=2))


def test_preps_validation_is_found_beside_the_training_data(tmp_path: Path) -> None:
    train, held = (tmp_path / f"{name}_mined.json" for name in ("train", "val"))
    train.touch()
    settings = msgspec.structs.replace(DEFAULTS, train_data_path=str(train))
    assert validation_file(settings) is None
    held.touch()
    assert validation_file(settings) == held
    other = msgspec.structs.replace(settings, val_data_path="other.json")
    assert validation_file(other) == Path("other.json")
    own = msgspec.structs.replace(DEFAULTS, train_data_path=str(tmp_path / "mine.json"))
    assert validation_file(own) is None
