"""The stage finetune's training: a cross-encoder on groups, by the loop in `trainer.py`.

Runs in the calling process, or in each of several processes started by torchrun
(`python -m recipe.training`); the Trainer spreads the global batch over them, with FSDP if the
settings ask for it.
"""

import os
from functools import partial
from pathlib import Path

import torch
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    TrainerCallback,
    TrainingArguments,
)

from exporter.checkpoint import Checkpoint
from recipe.config import FinetuneConfig
from recipe.durable import write_json
from recipe.progress import Log
from recipe.training.checkpoint import (
    PairBatcher,
    load_for_transformers,
    pad_as,
    quiet,
    read_whole,
    save_consolidated,
)
from recipe.training.cost import count_tokens, memory
from recipe.training.examples import Examples, read_examples
from recipe.training.job import (
    CONSOLIDATED,
    FACTS_FILE,
    TRAINER_FOLDER,
    Facts,
    Schedule,
    accumulated_passes,
    recorded_schedule,
)
from recipe.training.lora import add_lora, merged
from recipe.training.losses import collate, cross_entropy, margin_mse, ranks
from recipe.training.teacher_scores import read_scores, scored, scores_file
from recipe.training.trained_on import TRAINED_ON_FILE, TrainedOn, trained_on
from recipe.training.trainer import FullBatches, LossTrainer, Reporter, arguments, last_complete
from runtime.outputs import atomic_directory, locked_work_folder


def train(settings: FinetuneConfig, log: Log) -> Path:
    """Train, and return the consolidated checkpoint, to which `LATEST` in the directory points.

    An interrupted run continues from its last complete checkpoint and gives the same weights as an
    uninterrupted one. Raises BadInput before any weights are read.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    groups, held_out = read_examples(settings, log if _first_process() else _nothing)
    learned = trained_on(groups, held_out or ())
    if settings.teacher is not None:
        scores = read_scores(scores_file(settings))
        groups = scored(groups, scores)
        held_out = held_out and scored(held_out, scores)
    directory = Path(settings.checkpoint_dir)
    plan = recorded_schedule(directory, settings, len(groups), world)
    base = read_whole(settings.base_model)
    batcher = PairBatcher(base, settings.prompt_template, settings.rerank_max_length)
    model = load_for_transformers(
        base,
        attention=settings.attn_implementation,
        pooling=settings.pooling,
        temperature=settings.temperature,
    )
    pad_as(model, batcher)
    if settings.peft == "lora":
        model = add_lora(model, settings.lora_rank, settings.seed)
    examples = Examples(groups, settings.train_n_passages, settings.seed)
    order = FullBatches(len(groups), plan.batch, settings.seed)
    trainer = LossTrainer(
        loss=cross_entropy if settings.teacher is None else margin_mse,
        order=order,
        model=model,
        args=_arguments(settings, directory / TRAINER_FOLDER, world, plan, held_out is not None),
        train_dataset=examples,
        eval_dataset=held_out,
        data_collator=partial(collate, batcher),
        compute_metrics=ranks,
        callbacks=[Reporter(directory, log), *_early_stop(settings)],
    )
    if trainer.is_world_process_zero():
        log(
            f"{len(groups)} examples, {plan.steps} steps of {plan.batch} on {world} "
            f"process(es), {trainer.args.device.type}, {'bf16' if trainer.args.bf16 else 'fp32'}"
        )
        _say_steps(settings, plan, trainer.args, len(groups) - len(order), log)
        _say_cost(settings, trainer, batcher, examples, order, log)
    # One process removes old files; the others wait for it.
    with trainer.args.main_process_first(local=False):
        last = last_complete(directory / TRAINER_FOLDER)
    trainer.args.eval_on_start = held_out is not None and last is None
    if last is not None and trainer.is_world_process_zero():
        log(f"continue from step {last.rpartition('-')[2]}")
    with quiet():
        trainer.train(resume_from_checkpoint=last)
    facts = Facts(
        prompt_template=settings.prompt_template,
        rerank_max_length=settings.rerank_max_length,
        base_model=settings.base_model,
        steps=_kept_step(trainer, log),
        seed=settings.seed,
        train_data=settings.train_data_path,
    )
    epoch = -(-facts.steps * settings.num_epochs // plan.steps)
    return _publish(trainer, base, directory, epoch, facts, learned)


def _say_steps(
    settings: FinetuneConfig, plan: Schedule, made: TrainingArguments, left: int, log: Log
) -> None:
    """Say what of the settings does not hold for so many examples and steps."""
    if left:
        log(f"each epoch leaves out {left} examples, which fill no batch, other ones each time")
    if plan.batch != settings.global_batch_size:
        log(f"global_batch_size = {plan.batch}, not {settings.global_batch_size}: few examples")
    if plan.warmup != settings.lr_warmup_steps:
        log(f"lr_warmup_steps = {plan.warmup}, not {settings.lr_warmup_steps}: few steps")
    if settings.peft == "lora" and settings.learning_rate <= FinetuneConfig().learning_rate:
        log(
            f"warning: adapters learn next to nothing at learning_rate = {settings.learning_rate:g}"
            ", the default for all weights; 1e-4 is usual for LoRA"
        )
    patience = settings.early_stopping
    if patience is not None and (validations := plan.steps // int(made.save_steps)) <= patience:
        log(
            f"warning: early_stopping = {patience} cannot end this run before its last step: its "
            f"{plan.steps} steps are validated {validations} time(s)"
        )
    saves, asked, other = made.save_steps, settings.checkpoint_every_steps, settings.val_every_steps
    least = f"a run saves {_least_checkpoints(settings)} times at least"
    few = "" if saves in (asked, other) else f"; {least}"
    if made.load_best_model_at_end and asked != other:
        log(
            f"saves and validates every {saves:.0f} steps: keep_best wants both at once, at the "
            f"lesser of checkpoint_every_steps = {asked} and val_every_steps = {other}{few}"
        )
    elif few:
        log(f"saves every {saves:.0f} steps, not {asked}: {least}")


def _say_cost(
    settings: FinetuneConfig,
    trainer: LossTrainer,
    batcher: PairBatcher,
    examples: Examples,
    order: FullBatches,
    log: Log,
) -> None:
    """Say the tokens and the memory of the run, and warn of a card that is too small."""
    tokens = count_tokens(batcher, examples, order, settings.local_batch_size)
    log(tokens.said(len(order), settings.num_epochs))
    if settings.fsdp:  # the model is not on its cards yet
        return
    rows = settings.local_batch_size * settings.train_n_passages
    need = memory(
        trainer.model,
        trainer.accelerator.autocast,
        rows,
        tokens.longest,
        recomputes=settings.gradient_checkpointing,
    )
    log(need.said(rows, tokens.longest))
    device = trainer.args.device
    if device.type == "cuda" and need.total > (
        there := torch.cuda.get_device_properties(device).total_memory
    ):
        log(
            f"warning: {device} has {there / 2**30:.1f} GiB; lower local_batch_size, or set "
            "gradient_checkpointing=true or peft=lora"
        )


def _early_stop(settings: FinetuneConfig) -> list[TrainerCallback]:
    if settings.early_stopping is None:
        return []
    return [EarlyStoppingCallback(early_stopping_patience=settings.early_stopping)]


def _kept_step(trainer: LossTrainer, log: Log) -> int:
    """The step whose weights the model has now."""
    state = trainer.state
    losses = {one["step"]: one["eval_loss"] for one in state.log_history if "eval_loss" in one}
    start = losses.pop(0, None)
    if start is not None and losses and min(losses.values()) >= start and _first_process():
        log(
            f"warning: no step has a lesser validation loss than the base, {start:.4f}; lower "
            "learning_rate, or give it more data"
        )
    if not trainer.args.load_best_model_at_end or not state.best_global_step:
        return int(state.global_step)
    if state.is_world_process_zero:
        log(
            f"kept step {state.best_global_step} of {state.global_step}: the least validation "
            f"loss, {state.best_metric:.4f}"
        )
    return int(state.best_global_step)


def _first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _nothing(_: str) -> None:
    """A log for the processes that say nothing."""


def _arguments(
    settings: FinetuneConfig, directory: Path, world: int, plan: Schedule, validates: bool
) -> TrainingArguments:
    cuda = torch.cuda.is_available()
    least = _least_checkpoints(settings)
    saves = _interval(settings.checkpoint_every_steps, plan.steps, least)
    evaluates = _interval(settings.val_every_steps, plan.steps, least)
    keeps_best = validates and settings.keep_best
    if keeps_best:  # what is validated is saved, or the best would be lost
        saves = evaluates = min(saves, evaluates)
    made = arguments(
        directory,
        num_train_epochs=settings.num_epochs,
        per_device_train_batch_size=settings.local_batch_size,
        per_device_eval_batch_size=settings.local_batch_size,
        gradient_accumulation_steps=accumulated_passes(
            plan.batch, settings.local_batch_size, world
        ),
        learning_rate=settings.learning_rate,
        warmup_steps=plan.warmup,
        lr_scheduler_type=settings.lr_decay_style,
        weight_decay=settings.weight_decay,
        bf16=cuda and torch.cuda.is_bf16_supported(),
        use_cpu=not cuda,
        seed=settings.seed,
        data_seed=settings.seed,
        save_steps=saves,
        eval_strategy="steps" if validates else "no",
        eval_steps=evaluates if validates else None,
        load_best_model_at_end=keeps_best,
        metric_for_best_model="loss" if keeps_best else None,
        restore_callback_states_from_checkpoint=settings.early_stopping is not None,
        logging_steps=max(1, min(10, plan.steps // 20)),
        report_to=settings.report_to,
        activation_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
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


def _least_checkpoints(settings: FinetuneConfig) -> int:
    """Checkpoints of short runs: enough for early stopping to act halfway."""
    return max(3, 2 * (settings.early_stopping or 0))


def _interval(asked: int, steps: int, least: int) -> int:
    """Steps between checkpoints, so that a run with enough steps has at least so many."""
    return asked if steps >= least * asked else max(1, steps // least)


def _publish(
    trainer: LossTrainer,
    base: Checkpoint,
    directory: Path,
    epoch: int,
    facts: Facts,
    learned: TrainedOn,
) -> Path:
    """Write the checkpoint, rename it into place when complete, and point LATEST to it."""
    name = f"epoch_{epoch}_step_{facts.steps}"
    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, PreTrainedModel):
        weights = trainer.accelerator.get_state_dict(trainer.model)  # gathered from every process
    else:
        model = merged(model)
        weights = model.state_dict()
    if trainer.is_world_process_zero():
        with atomic_directory(directory / name, "finetune", lambda _: None) as new:
            save_consolidated(model, weights, base, new / CONSOLIDATED)
            write_json(new / CONSOLIDATED / FACTS_FILE, facts)
            write_json(new / CONSOLIDATED / TRAINED_ON_FILE, learned)
        with locked_work_folder(directory / name, "finetune") as folder:
            link = folder / "link"
            link.unlink(missing_ok=True)
            link.symlink_to(name)
            link.replace(directory / "LATEST")
    trainer.accelerator.wait_for_everyone()
    return directory / "LATEST" / CONSOLIDATED
