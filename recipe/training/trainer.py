"""The training loop: transformers' Trainer with a loss and an order of examples of its own.

It writes the curves while it trains, and marks checkpoints from which it can continue.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from recipe.progress import Log
from recipe.training.curves import write_curves

# Model and batch → the mean loss [], and the outputs that metrics are computed from.
Loss = Callable[[torch.nn.Module, dict[str, Any]], tuple[Tensor, Tensor]]
# An epoch, and an example in it: what is drawn anew each epoch depends on both.
Place = tuple[int, int]
# What the Trainer saves of the run beside its callbacks.
_CONTROL = "TrainerControl"
# A file in a folder of the Trainer, written last: the folder is complete.
_COMPLETE_MARK = "whole"


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    """The Trainer's arguments, quiet and with these `options`; `folder` gets its checkpoints."""
    return TrainingArguments(
        output_dir=str(folder),
        logging_first_step=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        disable_tqdm=True,
        log_level="error",
        **options,
    )


class LossTrainer(Trainer):
    """Trains on `loss`, and takes the examples in `order`."""

    def __init__(self, *, loss: Loss, order: Sampler[Any], **options: Any) -> None:
        super().__init__(**options)
        self._loss, self._order = loss, order
        # The loss is a mean over one forward pass, so the Trainer must divide it by the number of
        # accumulated passes.
        self.model_accepts_loss_kwargs = False
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any]:  # noqa: ARG002
        return self._order

    def _run_epoch(self, *given: Any, **named: Any) -> None:
        """One epoch; nothing where the run had ended at the checkpoint from which it continues, as
        by early stopping: the Trainer would train on."""
        saved: Any = self.state.stateful_callbacks
        if saved[_CONTROL]["args"]["should_training_stop"]:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*given, **named)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ARG002 - the Trainer passes it
    ) -> Any:
        """The mean loss of a batch, float32 []."""
        loss, outputs = self._loss(model, inputs)
        return (loss, {"logits": outputs}) if return_outputs else loss


class FullBatches(Sampler[Place]):
    """Each epoch's examples in another order, as many as fill complete global batches.

    The rest of an epoch, different each time, is left out: incomplete batches would be padded
    differently on one process and on several. Fewer examples than one batch are all used.
    """

    def __init__(self, examples: int, batch: int, seed: int) -> None:
        self._examples, self._seed, self._epoch = examples, seed, 0
        self._taken = examples // batch * batch or examples

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer when an epoch begins, or continues after a stop."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._taken

    def __iter__(self) -> Iterator[Place]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(self._examples)
        return ((self._epoch, index) for index in order[: self._taken].tolist())


class Reporter(TrainerCallback):
    """Writes curves at every log, marks complete checkpoints, and removes those that they replace.

    The Trainer's own removal comes before the mark of the new one, and may begin with the newest
    that is marked: a kill there would leave half of it, marked as complete.
    """

    def __init__(self, directory: Path, log: Log) -> None:
        self._directory, self._log = directory, log
        self._began, self._first = time.monotonic(), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Begin to count the time, at the step from which a stopped run goes on."""
        self._began, self._first = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Write the curves and log the last figures."""
        if not state.is_world_process_zero:
            return
        write_curves(self._directory, state.log_history)
        last = state.log_history[-1]
        kinds = {"loss": "loss", "eval_loss": "validation loss", "eval_mrr": "MRR"}
        shown = [f"{word} {last[key]:.4f}" for key, word in kinds.items() if key in last]
        if shown:
            left = self._left(state.global_step, state.max_steps)
            self._log(f"step {state.global_step} of {state.max_steps}: {', '.join(shown)}{left}")

    def _left(self, step: int, steps: int) -> str:
        if not self._first < step < steps:
            return ""
        seconds = (time.monotonic() - self._began) / (step - self._first) * (steps - step)
        return f", about {seconds:.0f} s left"

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Mark a checkpoint of the Trainer as complete, after everything else, then remove all
        others but the best."""
        args.distributed_state.wait_for_everyone()  # each process writes its own files
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        (folder / _named(state.global_step) / _COMPLETE_MARK).touch()
        kept = {_named(state.global_step), _named(state.best_global_step)}
        for path in folder.glob(_named("*")):
            if path.name not in kept:
                (path / _COMPLETE_MARK).unlink(missing_ok=True)
                shutil.rmtree(path)


def last_complete(directory: Path) -> str | None:
    """The newest complete checkpoint of the Trainer; incomplete ones are removed."""
    for path in directory.glob(_named("*")):
        if not (path / _COMPLETE_MARK).exists():
            shutil.rmtree(path)
    found = sorted(directory.glob(_named("*")), key=lambda path: int(path.name.split("-")[1]))
    return str(found[-1]) if found else None


def _named(step: int | str | None) -> str:
    """The folder in which the Trainer saves this step."""
    return f"checkpoint-{step}"
