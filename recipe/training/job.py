"""The facts of a training run: in its checkpoint, and in its steps. Needs no torch.

Batch and warm-up follow the number of examples as in NVIDIA's recipe (stage2_finetune/train.py).
"""

from pathlib import Path

import msgspec

from recipe.config import FinetuneConfig
from recipe.durable import read_json, write_json
from recipe.errors import BadConfig

CONSOLIDATED = Path("model") / "consolidated"
LATEST = Path("LATEST") / CONSOLIDATED
# The states from which a stopped run goes on, in the folder of the checkpoints.
TRAINER_FOLDER = "trainer"
FACTS_FILE = "training.json"
_SCHEDULE_FILE = "schedule.json"
# Below so many examples the batch is an eighth of them, between these bounds.
_SMALL, _SHARE, _LEAST, _MOST = 2000, 8, 16, 64


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that a checkpoint was trained with, in training.json beside its weights.

    `steps` is the step whose weights these are.
    `train_data` is the path of its training data, as it was given ("": not recorded).
    """

    prompt_template: str | None
    rerank_max_length: int
    base_model: str
    steps: int
    seed: int
    train_data: str = ""


def read_facts(checkpoint: Path) -> Facts | None:
    """The facts of a checkpoint that this recipe trained; None for any other."""
    return read_json(checkpoint / FACTS_FILE, Facts)


def of_seed(checkpoints: Path, number: int) -> Path:
    """The folder of the run with the seed `number` after the first, whose folder is given."""
    return checkpoints / "seeds" / str(number) if number else checkpoints


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """The steps of a run; `batch` counts the queries of all processes in a step of the optimizer.

    `warmup` are the steps before the learning rate is at its peak.
    """

    examples: int
    batch: int
    steps: int
    warmup: int

    @property
    def warms_up_only(self) -> bool:
        """Whether the peak is reached in the last step, if at all."""
        return self.warmup >= max(1, self.steps - 1)

    @property
    def warning(self) -> str:
        """That little can have been learned, or nothing, in words; "" where it is not so."""
        if not self.warms_up_only:
            return ""
        advice = "lower lr_warmup_steps, or global_batch_size for more steps"
        if self.steps == 1:
            return f"the learning rate of the only step was 0, so nothing was learned; {advice}"
        return (
            f"the learning rate rose through all {self.steps} steps (warm-up), so little was "
            f"learned; {advice}"
        )


def schedule(settings: FinetuneConfig, examples: int, processes: int) -> Schedule:
    """The schedule for so many examples.

    The default global_batch_size is lowered for few examples, and the warm-up ends before the last
    step. Another batch stays as it is; that of the default is never known to have been asked for.
    """
    batch = settings.global_batch_size
    at_once = settings.local_batch_size * processes
    if batch == FinetuneConfig().global_batch_size and examples < _SMALL:
        fitting = max(_LEAST, min(_MOST, examples // _SHARE)) // at_once * at_once
        batch = fitting or batch
    steps = max(1, examples // batch) * settings.num_epochs
    warmup = min(settings.lr_warmup_steps, max(1, steps - 1))
    return Schedule(examples=examples, batch=batch, steps=steps, warmup=warmup)


def began_with(checkpoints: Path) -> Schedule | None:
    """The schedule of the run in this folder; None where none began."""
    return read_json(checkpoints / _SCHEDULE_FILE, Schedule)


def recorded_schedule(
    directory: Path, settings: FinetuneConfig, examples: int, processes: int
) -> Schedule:
    """The schedule that the run in `directory` began with: it may go on with other processes."""
    began = began_with(directory)
    if began is None:
        directory.mkdir(parents=True, exist_ok=True)
        began = schedule(settings, examples, processes)
        write_json(directory / _SCHEDULE_FILE, began)
    return began


def refuse_other_processes(began: Schedule, settings: FinetuneConfig) -> None:
    """Raise BadConfig where the run cannot go on with the settings' number of processes."""
    local = settings.local_batch_size
    if began.batch % (local * settings.processes):
        most = began.batch // local
        fitting = [str(n) for n in range(1, most + 1) if began.batch % (local * n) == 0]
        raise BadConfig(
            f"found processes = {settings.processes}, but this run began with {began.batch} "
            f"examples a step, {local} at a time in each process (local_batch_size); wanted one of "
            f"{', '.join(fitting)}, or start over with --force"
        )


def validation_file(settings: FinetuneConfig) -> Path | None:
    """What is validated with: `val_data_path`, or what prep wrote beside the training data."""
    if settings.val_data_path is not None:
        return Path(settings.val_data_path)
    train = Path(settings.train_data_path)
    beside = train.with_name(f"val{train.name.removeprefix('train')}")
    return beside if train.name.startswith("train_") and beside.is_file() else None


def accumulated_passes(batch: int, local_batch: int, processes: int) -> int:
    """Forward passes of one process in one step of the optimizer. Raises BadConfig.

    `batch` counts queries of all processes in one step of the optimizer, `local_batch` those of one
    process in one forward pass.
    """
    at_once = local_batch * processes
    if batch % at_once:
        raise BadConfig(
            f"found global_batch_size = {batch}, wanted a multiple of "
            f"local_batch_size × processes = {local_batch} × {processes}"
        )
    return batch // at_once
