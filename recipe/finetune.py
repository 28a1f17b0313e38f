"""Stage 2, finetune: train a cross-encoder to rank a query's positive above hard negatives."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from recipe.addresses import public_address
from recipe.config import FinetuneConfig
from recipe.data.reading import parts
from recipe.distillation import ask_teacher, check_teacher
from recipe.durable import write_json
from recipe.errors import BadConfig, BadInput, StageFailed
from recipe.evaluation.scorers import is_url
from recipe.hub import model_commit, pin_models, refuse_hub
from recipe.progress import Log
from recipe.stage import Input, Stage
from recipe.training.examples import read_examples
from recipe.training.job import (
    LATEST,
    TRAINER_FOLDER,
    accumulated_passes,
    began_with,
    of_seed,
    refuse_other_processes,
    validation_file,
)
from recipe.training.parent_death import kill_with_parent
from recipe.training.teacher_scores import keep_to_scores

_JOB_FILE = "job.json"


def _inputs(settings: FinetuneConfig) -> list[Input]:
    given = {settings.train_data_path: "training data"}
    if (validation := validation_file(settings)) is not None:
        given.setdefault(str(validation), "validation data")
    found = {
        path: what if path == Path(data) else f"corpus of the {what}"
        for data, what in given.items()
        for path in parts(data)
    }
    inputs = [Input(path, what, "prep") for path, what in found.items()]
    models = {"base model": settings.base_model, "teacher": settings.teacher}
    return inputs + [
        Input(Path(model), what, None)
        for what, model in models.items()
        if model is not None and Path(model).is_dir()
    ]


def _check_values(settings: FinetuneConfig) -> None:
    refuse_hub("train_data_path", settings.train_data_path)
    refuse_hub("val_data_path", settings.val_data_path)
    if settings.attn_implementation == "flash_attention_2":
        raise BadConfig(
            "found attn_implementation = flash_attention_2, which is not supported; wanted sdpa, "
            "eager or null"
        )
    accumulated_passes(settings.global_batch_size, settings.local_batch_size, settings.processes)
    if settings.peft is not None and settings.fsdp:
        raise BadConfig("found peft and fsdp = true, wanted one of them: adapters need no shards")
    if settings.teacher is None and settings.teacher_api_key_env is not None:
        raise BadConfig("found teacher_api_key_env and no teacher; set teacher to its endpoint")
    if settings.early_stopping is not None and not settings.keep_best:
        raise BadConfig(
            "found early_stopping and keep_best = false, wanted keep_best: the steps after the "
            "best one are those that training was stopped for"
        )


def _check(settings: FinetuneConfig) -> None:
    validation = validation_file(settings)
    if validation is None and settings.early_stopping is not None:
        raise BadConfig(
            "found early_stopping and no validation data; set val_data_path, or run the stage prep "
            "with val_ratio"
        )
    read_examples(settings, lambda _: None)


def _check_models(settings: FinetuneConfig) -> None:
    _check_base(settings)
    if settings.teacher is not None:
        check_teacher(settings)


def _check_base(settings: FinetuneConfig) -> None:
    import torch  # late: `rerank info` need not wait for it
    from transformers.integrations.integration_utils import get_available_reporting_integrations

    from exporter.architectures import CROSS_ENCODERS, VISION
    from recipe.training.checkpoint import TEMPLATED, fixed_pooling, read_whole, refuse_judge

    known = ["none", *get_available_reporting_integrations()]  # type: ignore[no-untyped-call]
    if settings.report_to not in known:
        raise BadConfig(
            f"found report_to = {settings.report_to}, wanted one whose package is installed: "
            f"{', '.join(known)}"
        )
    if settings.fsdp and not torch.cuda.is_available():
        raise BadConfig("found fsdp = true, which shards over GPUs, and no GPU; set fsdp=false")
    checkpoint = read_whole(settings.base_model)
    if checkpoint.architecture in VISION:
        raise BadInput(
            f"found {checkpoint.architecture} in {settings.base_model}, which takes images and "
            "cannot be trained here; name it as base_model of eval and model_path of export, or "
            "train a text model"
        )
    if checkpoint.architecture not in CROSS_ENCODERS:
        raise BadInput(
            f"found the embedder {checkpoint.architecture} in {settings.base_model}, wanted a "
            f"reranker, one of: {', '.join(CROSS_ENCODERS)}"
        )
    refuse_judge(checkpoint)
    templated = checkpoint.architecture in TEMPLATED
    if templated == (settings.prompt_template is None):
        wanted = "a template" if templated else "null: its tokenizer joins query and passage"
        raise BadConfig(
            f"found prompt_template = {settings.prompt_template!r} for {checkpoint.architecture}, "
            f"wanted {wanted}"
        )
    pooling = fixed_pooling(checkpoint.architecture)
    if pooling is not None and settings.temperature != 1:
        raise BadConfig(
            f"found temperature = {settings.temperature:g}, but {checkpoint.architecture} has no "
            "place for it in its checkpoint, so served scores would differ; set temperature=1"
        )
    if pooling not in (None, settings.pooling):
        place = "last" if pooling == "last" else "first"
        raise BadConfig(
            f"found pooling = {settings.pooling}, but {checkpoint.architecture} reads its {place} "
            f"token; set pooling={pooling}"
        )


def _plan(settings: FinetuneConfig) -> list[str]:
    lines = [f"train {settings.base_model} for {settings.num_epochs} epochs"]
    if settings.teacher is not None:
        lines.insert(0, f"ask {public_address(settings.teacher)} for its scores, once")
    if settings.processes > 1:
        lines.append("run " + " ".join(_torchrun(settings)))
    lines.append(f"write {Path(settings.checkpoint_dir) / LATEST}")
    return lines


def _run(settings: FinetuneConfig, log: Log) -> None:
    if settings.teacher is not None:
        ask_teacher(settings, log)
    for number in range(settings.seeds):
        folder = of_seed(Path(settings.checkpoint_dir), number)
        seed = settings.seed + number
        if settings.seeds > 1:
            log(f"seed {seed}, {number + 1} of {settings.seeds}")
        if (folder / LATEST).exists():  # of an interrupted stage: it is published last
            log(f"already trained: {folder / LATEST}")
        else:
            if settings.teacher is not None:
                keep_to_scores(settings)
            _train(msgspec.structs.replace(settings, seed=seed, checkpoint_dir=str(folder)), log)
        # What a stopped run goes on from: three times the weights, more than once.
        shutil.rmtree(folder / TRAINER_FOLDER, ignore_errors=True)
    plan = began_with(Path(settings.checkpoint_dir))
    if plan is not None and (sentence := plan.warning):
        log(f"warning: {sentence}")


def _train(settings: FinetuneConfig, log: Log) -> None:
    if (began := began_with(Path(settings.checkpoint_dir))) is not None:
        refuse_other_processes(began, settings)
    if settings.processes == 1:
        from recipe.training.loop import train  # late: torch and transformers

        train(settings, log)
        return
    if importlib.util.find_spec("torch") is None:
        raise ModuleNotFoundError(name="torch")
    settings.home.mkdir(parents=True, exist_ok=True)
    # The processes read the teacher's stored scores, and sign in nowhere.
    teacher = None if settings.teacher is None else public_address(settings.teacher)
    write_json(settings.home / _JOB_FILE, msgspec.structs.replace(settings, teacher=teacher))
    parent = os.getpid()
    running = subprocess.Popen(_torchrun(settings), preexec_fn=lambda: kill_with_parent(parent))
    try:
        code = running.wait()
    except KeyboardInterrupt:  # the terminal interrupts torchrun too, which ends its processes
        running.wait()
        raise
    if code:
        raise StageFailed(
            f"torchrun ended with code {code}; see its output above. The "
            "same command continues from the last checkpoint"
        )


def _torchrun(settings: FinetuneConfig) -> list[str]:
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={settings.processes}",
        "-m",
        "recipe.training",
        str(settings.home / _JOB_FILE),
    ]


def _sources(settings: FinetuneConfig) -> dict[str, str]:
    teacher = {} if not _named_teacher(settings) else model_commit(str(settings.teacher))
    return {**model_commit(settings.base_model), **teacher}


def _pin(settings: FinetuneConfig, commits: Mapping[str, str]) -> FinetuneConfig:
    keys = ("base_model", "teacher") if _named_teacher(settings) else ("base_model",)
    pinned: FinetuneConfig = pin_models(*keys)(settings, commits)
    return pinned


def _named_teacher(settings: FinetuneConfig) -> bool:
    """Whether the teacher is a checkpoint, by its folder or its name on the hub."""
    return settings.teacher is not None and not is_url(settings.teacher)


STAGE = Stage(
    name="finetune",
    about="train a cross-encoder on mined groups",
    settings=FinetuneConfig,
    inputs=_inputs,
    outputs=lambda settings: [Path(settings.checkpoint_dir), settings.home / _JOB_FILE],
    check_values=_check_values,
    check=_check,
    check_machine=_check_models,
    plan=_plan,
    run=_run,
    free=frozenset({"gradient_checkpointing", "processes", "report_to", "teacher_api_key_env"}),
    sources=_sources,
    pin=_pin,
)
