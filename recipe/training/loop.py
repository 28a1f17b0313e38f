"""The training loop: transformers' Trainer with a loss over groups.

Runs in the calling process, or in each of several processes started by torchrun
(`python -m recipe.training`); the Trainer spreads the global batch over them, with FSDP if the job
asks for it.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Sampler
from transformers import (
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from exporter.checkpoint import Checkpoint
from recipe.durable import write_json
from recipe.progress import Log
from recipe.training.checkpoint import (
    PairBatcher,
    load_for_transformers,
    quiet,
    read_whole,
    save_consolidated,
)
from recipe.training.curves import write_curves
from recipe.training.groups import Group, read_groups
from recipe.training.job import CONSOLIDATED, FACTS_FILE, Facts, Job, accumulated_passes
from runtime.outputs import atomic_directory, locked_work_folder

# A file in a folder of the Trainer, written last: the folder is complete.
_COMPLETE_MARK = "whole"


def train(job: Job, log: Log) -> Path:
    """Train, and return the consolidated checkpoint, to which `LATEST` in the directory points.

    An interrupted run continues from its last complete checkpoint and gives the same weights as an
    uninterrupted one. Raises BadInput before any weights are read.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    groups = read_groups(Path(job.train_data_path), job.train_n_passages)
    held_out = (
        read_groups(Path(job.val_data_path), job.train_n_passages) if job.val_data_path else None
    )
    steps = max(1, len(groups) // job.global_batch_size) * job.num_epochs
    base = read_whole(job.base_model)
    batcher = PairBatcher(base, job.template, job.rerank_max_length)
    model = load_for_transformers(base, attention=job.attn_implementation, pooling=job.pooling)
    directory = Path(job.directory)
    trainer = _GroupTrainer(
        model=model,
        args=_arguments(job, directory / "trainer", world, steps, held_out is not None),
        train_dataset=groups,
        eval_dataset=held_out,
        data_collator=_Collator(batcher),
        compute_metrics=_metrics,
        callbacks=[_Reporter(directory, steps, log)],
    )
    trainer.temperature = job.temperature
    trainer.sampler = _FullBatchSampler(len(groups), job.global_batch_size, job.seed)
    trainer.remove_callback(PrinterCallback)
    if trainer.is_world_process_zero():
        log(
            f"{len(groups)} examples, {steps} steps of {job.global_batch_size} on {world} "
            f"process(es), {trainer.args.device.type}, {'bf16' if trainer.args.bf16 else 'fp32'}"
        )
        if steps <= job.lr_warmup_steps:
            log(
                f"warning: all {steps} steps are warm-up (lr_warmup_steps = "
                f"{job.lr_warmup_steps}), so the learning rate never reaches its peak; lower "
                "lr_warmup_steps, or global_batch_size for more steps"
            )
    # One process removes old files; the others wait for it.
    with trainer.args.main_process_first(local=False):
        last = _last_complete(directory / "trainer")
    with quiet():
        trainer.train(resume_from_checkpoint=last)
    facts = Facts(
        prompt_template=job.template,
        rerank_max_length=job.rerank_max_length,
        base_model=job.base_model,
        steps=steps,
        seed=job.seed,
    )
    return _publish(trainer, base, directory, job.num_epochs, facts)


class _Collator:
    """Groups → their pairs as one batch, group by group, and a target for each group."""

    def __init__(self, batcher: PairBatcher) -> None:
        self._batcher = batcher

    def __call__(self, groups: Sequence[Group]) -> dict[str, Tensor]:
        pairs = [(group.query, passage) for group in groups for passage in group.passages]
        return {**self._batcher(pairs), "labels": torch.zeros(len(groups), dtype=torch.int64)}


class _FullBatchSampler(Sampler[int]):
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

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(self._examples)
        return iter(order[: self._taken].tolist())


class _GroupTrainer(Trainer):
    """Softmax cross-entropy over the logits of each group, whose first passage is the target."""

    temperature: float = 1.0
    sampler: Sampler[int]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # The loss below is a mean over the groups of one forward pass, so the Trainer must divide
        # it by the number of accumulated passes.
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:  # noqa: ARG002
        return self.sampler

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ARG002 - the Trainer passes it
    ) -> Any:
        """The mean loss of a batch of groups, float32 []."""
        texts = {name: value for name, value in inputs.items() if name != "labels"}
        targets = inputs["labels"]
        logits = model(**texts).logits.float().view(len(targets), -1)
        loss = functional.cross_entropy(logits / self.temperature, targets)
        return (loss, {"logits": logits}) if return_outputs else loss


class _Reporter(TrainerCallback):
    """Writes curves at every log, and marks complete checkpoints."""

    def __init__(self, directory: Path, steps: int, log: Log) -> None:
        self._directory = directory
        self._steps = steps
        self._log = log

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Write the curves and log the last figures."""
        if not state.is_world_process_zero:
            return
        write_curves(self._directory, state.log_history)
        last = state.log_history[-1]
        kinds = {"loss": "loss", "eval_loss": "validation loss", "eval_mrr": "MRR"}
        shown = [f"{word} {last[key]:.4f}" for key, word in kinds.items() if key in last]
        if shown:
            self._log(f"step {state.global_step} of {self._steps}: {', '.join(shown)}")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Mark a checkpoint of the Trainer as complete, after everything else."""
        args.distributed_state.wait_for_everyone()  # each process writes its own files
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _COMPLETE_MARK).touch()


def _arguments(
    job: Job, directory: Path, world: int, steps: int, validates: bool
) -> TrainingArguments:
    cuda = torch.cuda.is_available()
    save_steps = _interval(job.checkpoint_every_steps, steps)
    arguments = TrainingArguments(
        output_dir=str(directory),
        num_train_epochs=job.num_epochs,
        per_device_train_batch_size=job.local_batch_size,
        per_device_eval_batch_size=job.local_batch_size,
        gradient_accumulation_steps=accumulated_passes(job, world),
        learning_rate=job.learning_rate,
        warmup_steps=job.lr_warmup_steps,
        lr_scheduler_type=job.lr_decay_style,
        weight_decay=job.weight_decay,
        bf16=cuda and torch.cuda.is_bf16_supported(),
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        seed=job.seed,
        data_seed=job.seed,
        save_steps=save_steps,
        save_total_limit=2,
        eval_strategy="steps" if validates else "no",
        eval_steps=_interval(job.val_every_steps, steps) if validates else None,
        logging_steps=max(1, min(10, steps // 20)),
        logging_first_step=True,
        fsdp="full_shard auto_wrap" if job.fsdp else "",
        ddp_backend="gloo" if world > 1 and not cuda else None,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        log_level="error",
        report_to="none",
    )
    return _on_one_device(arguments)


def _on_one_device(arguments: TrainingArguments) -> TrainingArguments:
    """Train on one GPU per process, even if more are visible.

    By default the Trainer splits the forward passes of a single process over all visible GPUs by
    DataParallel, which multiplies the global batch. This sets the values that the Trainer itself
    sets for models that are split over several GPUs.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _interval(asked: int, steps: int) -> int:
    """Steps between checkpoints; short runs get at least three checkpoints."""
    return asked if steps >= 3 * asked else max(1, steps // 3)


def _metrics(predicted: EvalPrediction) -> Mapping[str, float]:
    """Metrics of the validation groups: the rank of the positive among its passages."""
    logits = np.asarray(predicted.predictions)
    # A tie counts against the model.
    ranks = 1 + (logits[:, 1:] >= logits[:, :1]).sum(axis=1)
    return {"mrr": float((1 / ranks).mean()), "accuracy": float((ranks == 1).mean())}


def _last_complete(directory: Path) -> str | None:
    """The newest complete checkpoint of the Trainer; incomplete ones are removed."""
    for path in directory.glob("checkpoint-*"):
        if not (path / _COMPLETE_MARK).exists():
            shutil.rmtree(path)
    found = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return str(found[-1]) if found else None


def _publish(
    trainer: _GroupTrainer, base: Checkpoint, directory: Path, epochs: int, facts: Facts
) -> Path:
    """Write the checkpoint, rename it into place when complete, and point LATEST to it."""
    name = f"epoch_{epochs}_step_{facts.steps}"
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = trainer.accelerator.get_state_dict(trainer.model)  # gathered from every process
    if trainer.is_world_process_zero():
        with atomic_directory(directory / name, "finetune", lambda _: None) as new:
            save_consolidated(model, weights, base, new / CONSOLIDATED)
            write_json(new / CONSOLIDATED / FACTS_FILE, facts)
        with locked_work_folder(directory / name, "finetune") as folder:
            link = folder / "link"
            link.unlink(missing_ok=True)
            link.symlink_to(name)
            link.replace(directory / "LATEST")
    trainer.accelerator.wait_for_everyone()
    return directory / "LATEST" / CONSOLIDATED
