"""The settings of a training run, and the facts in its checkpoint. Needs no torch."""

from pathlib import Path

import msgspec

from recipe.errors import BadConfig

CONSOLIDATED = Path("model") / "consolidated"
FACTS_FILE = "training.json"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a training run; `template` None lets the tokenizer join the pair.

    `global_batch_size` counts queries of all processes in one step of the optimizer,
    `local_batch_size` those of one process in one forward pass. `directory` is checkpoint_dir.
    """

    base_model: str
    train_data_path: str
    val_data_path: str | None
    directory: str
    num_epochs: int
    global_batch_size: int
    local_batch_size: int
    learning_rate: float
    lr_warmup_steps: int
    lr_decay_style: str
    weight_decay: float
    attn_implementation: str | None
    train_n_passages: int
    temperature: float
    pooling: str
    rerank_max_length: int
    template: str | None
    checkpoint_every_steps: int
    val_every_steps: int
    fsdp: bool
    seed: int


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that a checkpoint was trained with, in training.json beside its weights."""

    prompt_template: str | None
    rerank_max_length: int
    base_model: str
    steps: int
    seed: int


def read_facts(checkpoint: Path) -> Facts | None:
    """The facts of a checkpoint that this recipe trained; None for any other."""
    try:
        return msgspec.json.decode((checkpoint / FACTS_FILE).read_bytes(), type=Facts)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def accumulated_passes(job: Job, processes: int) -> int:
    """Forward passes of one process in one step of the optimizer. Raises BadConfig."""
    at_once = job.local_batch_size * processes
    if job.global_batch_size % at_once:
        raise BadConfig(
            f"found global_batch_size = {job.global_batch_size}, wanted a multiple of "
            f"local_batch_size × processes = {job.local_batch_size} × {processes}"
        )
    return job.global_batch_size // at_once
