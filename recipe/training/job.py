"""The facts of a training run: in its checkpoint, and in its steps. Needs no torch."""

from pathlib import Path

import msgspec

from recipe.config import FinetuneConfig
from recipe.durable import read_json
from recipe.errors import BadConfig

CONSOLIDATED = Path("model") / "consolidated"
FACTS_FILE = "training.json"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that a checkpoint was trained with, in training.json beside its weights.

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


def accumulated_passes(settings: FinetuneConfig, processes: int) -> int:
    """Forward passes of one process in one step of the optimizer. Raises BadConfig.

    `global_batch_size` counts queries of all processes in one step of the optimizer,
    `local_batch_size` those of one process in one forward pass.
    """
    at_once = settings.local_batch_size * processes
    if settings.global_batch_size % at_once:
        raise BadConfig(
            f"found global_batch_size = {settings.global_batch_size}, wanted a multiple of "
            f"local_batch_size × processes = {settings.local_batch_size} × {processes}"
        )
    return settings.global_batch_size // at_once
