"""One training of ranker or embedder, by the recipe's trainer: AdamW, half a cosine, and averaged
weights, which are the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from recipe.training.trainer import LossTrainer, Reporter, arguments

Model = TypeVar("Model", bound=nn.Module)
Batch = dict[str, Any]

LAST_RATE, WARM_UP = 1e-4, 100
AVERAGE = 0.995  # decay of the averaged weights


@dataclass(frozen=True)
class Plan:
    """One training: ``lengths`` holds (share of the steps, most tokens of a row from there on)."""

    steps: int
    rate: float
    step_tokens: int  # of all rows of a step, including padding
    lengths: tuple[tuple[float, int], ...]

    def most_tokens(self, step: int) -> int:
        """The longest row of a step."""
        return max(length for share, length in self.lengths if step >= share * self.steps)


class _Averaging(TrainerCallback):
    """Averages the weights after every step; the first steps count less."""

    def __init__(self, model: nn.Module) -> None:
        def towards(mean: Tensor, now: Tensor, steps: Tensor | int) -> Tensor:
            return mean.lerp(now, 1 - min(AVERAGE, int(steps) / (int(steps) + 10)))

        self.averaged = AveragedModel(model, avg_fn=towards)

    def on_step_end(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self.averaged.update_parameters(model)


def fit(
    model: Model,
    plan: Plan,
    draw: Callable[[int], Batch],
    loss: Callable[[nn.Module, Batch], tuple[Tensor, Tensor]],
    folder: Path,
) -> Model:
    """Train in place; return the averaged weights as a separate model.

    ``draw`` makes the batch of a step from its number; ``folder`` gets the curves.
    """
    averaging = _Averaging(model)
    LossTrainer(
        loss=loss,
        order=SequentialSampler(range(plan.steps)),
        model=model,
        args=arguments(
            folder,
            max_steps=plan.steps,
            per_device_train_batch_size=1,  # the number of a step, of which `draw` makes its batch
            learning_rate=plan.rate,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr": LAST_RATE},
            warmup_steps=WARM_UP,
            adam_beta2=0.98,
            weight_decay=0.01,
            save_strategy="no",
            logging_steps=max(1, min(100, plan.steps // 5)),
            use_cpu=True,
        ),
        train_dataset=range(plan.steps),
        data_collator=lambda steps: draw(steps[0]),
        callbacks=[averaging, Reporter(folder, lambda line: print(line, flush=True))],
    ).train()
    return cast(Model, averaging.averaged.module.eval())
