"""The stage finetune's training: a cross-encoder on groups, by the loop in `trainer.py`.

Runs in the calling process, or in each of several processes started by torchrun
(`python -m recipe.training`); the Trainer spreads the global batch over them, with FSDP if the
settings ask for it.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import EvalPrediction, TrainingArguments

from exporter.checkpoint import Checkpoint
from recipe.config import FinetuneConfig
from recipe.durable import write_json
from recipe.progress import Log
from recipe.training.checkpoint import (
    PairBatcher,
    load_for_transformers,
    quiet,
    read_whole,
    save_consolidated,
)
from recipe.training.groups import Group, read_groups
from recipe.training.job import CONSOLIDATED, FACTS_FILE, Facts, accumulated_passes
from recipe.training.trainer import FullBatches, LossTrainer, Reporter, arguments, last_complete
from runtime.outputs import atomic_directory, locked_work_folder


def train(settings: FinetuneConfig, log: Log) -> Path:
    """Train, and return the consolidated checkpoint, to which `LATEST` in the directory points.

    An interrupted run continues from its last complete checkpoint and gives the same weights as an
    uninterrupted one. Raises BadInput before any weights are read.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    validation = None if settings.val_data_path is None else Path(settings.val_data_path)
    passages, say = settings.train_n_passages, log if _first_process() else _nothing
    groups = read_groups(Path(settings.train_data_path), passages, validation, say)
    held_out = None if validation is None else read_groups(validation, passages)
    steps = max(1, len(groups) // settings.global_batch_size) * settings.num_epochs
    base = read_whole(settings.base_model)
    batcher = PairBatcher(base, settings.prompt_template, settings.rerank_max_length)
    model = load_for_transformers(
        base,
        attention=settings.attn_implementation,
        pooling=settings.pooling,
        temperature=settings.temperature,
    )
    directory = Path(settings.checkpoint_dir)
    order = FullBatches(len(groups), settings.global_batch_size, settings.seed)
    trainer = LossTrainer(
        loss=_group_loss,
        order=order,
        model=model,
        args=_arguments(settings, directory / "trainer", world, steps, held_out is not None),
        train_dataset=groups,
        eval_dataset=held_out,
        data_collator=partial(_collate, batcher),
        compute_metrics=_metrics,
        callbacks=[Reporter(directory, log)],
    )
    if trainer.is_world_process_zero():
        log(
            f"{len(groups)} examples, {steps} steps of {settings.global_batch_size} on {world} "
            f"process(es), {trainer.args.device.type}, {'bf16' if trainer.args.bf16 else 'fp32'}"
        )
        if left := len(groups) - len(order):
            log(f"each epoch leaves out {left} examples, which fill no batch, other ones each time")
        if steps <= settings.lr_warmup_steps:
            log(
                f"warning: all {steps} steps are warm-up (lr_warmup_steps = "
                f"{settings.lr_warmup_steps}), so the learning rate never reaches its peak; lower "
                "lr_warmup_steps, or global_batch_size for more steps"
            )
    # One process removes old files; the others wait for it.
    with trainer.args.main_process_first(local=False):
        last = last_complete(directory / "trainer")
    if last is not None and trainer.is_world_process_zero():
        log(f"continue from step {last.rpartition('-')[2]}")
    with quiet():
        trainer.train(resume_from_checkpoint=last)
    facts = Facts(
        prompt_template=settings.prompt_template,
        rerank_max_length=settings.rerank_max_length,
        base_model=settings.base_model,
        steps=steps,
        seed=settings.seed,
        train_data=settings.train_data_path,
    )
    return _publish(trainer, base, directory, settings.num_epochs, facts)


def _first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _nothing(_: str) -> None:
    """A log for the processes that say nothing."""


def _collate(batcher: PairBatcher, groups: Sequence[Group]) -> dict[str, Tensor]:
    """The groups' pairs as one batch, group by group, and a target for each group."""
    pairs = [(group.query, passage) for group in groups for passage in group.passages]
    return {**batcher(pairs), "labels": torch.zeros(len(groups), dtype=torch.int64)}


def _group_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Softmax cross-entropy over the logits of each group, whose first passage is the target.

    The mean loss of a batch of groups, float32 [], and the logits [groups, passages], which the
    model has divided by its temperature.
    """
    targets = batch["labels"]
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    logits = logits.float().view(len(targets), -1)
    return functional.cross_entropy(logits, targets), logits


def _arguments(
    settings: FinetuneConfig, directory: Path, world: int, steps: int, validates: bool
) -> TrainingArguments:
    cuda = torch.cuda.is_available()
    save_steps = _interval(settings.checkpoint_every_steps, steps)
    made = arguments(
        directory,
        num_train_epochs=settings.num_epochs,
        per_device_train_batch_size=settings.local_batch_size,
        per_device_eval_batch_size=settings.local_batch_size,
        gradient_accumulation_steps=accumulated_passes(settings, world),
        learning_rate=settings.learning_rate,
        warmup_steps=settings.lr_warmup_steps,
        lr_scheduler_type=settings.lr_decay_style,
        weight_decay=settings.weight_decay,
        bf16=cuda and torch.cuda.is_bf16_supported(),
        use_cpu=not cuda,
        seed=settings.seed,
        data_seed=settings.seed,
        save_steps=save_steps,
        save_total_limit=2,
        eval_strategy="steps" if validates else "no",
        eval_steps=_interval(settings.val_every_steps, steps) if validates else None,
        logging_steps=max(1, min(10, steps // 20)),
        fsdp="full_shard auto_wrap" if settings.fsdp else "",
        ddp_backend="gloo" if world > 1 and not cuda else None,
        label_names=["labels"],
    )
    return _on_one_device(made)


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


def _publish(
    trainer: LossTrainer, base: Checkpoint, directory: Path, epochs: int, facts: Facts
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
