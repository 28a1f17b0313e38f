"""Stage 1, prep: training groups with hard negatives, and an evaluation set."""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import msgspec

from recipe.config import PrepConfig
from recipe.data.reading import Reading, read
from recipe.data.reading import parts as parts_of
from recipe.data.rows import Broken
from recipe.errors import BadConfig, BadInput, StageFailed
from recipe.first_stage import Embedding, FirstStage, artifact_directory, embedder_commit
from recipe.hub import HF, dataset_commit, pin_models, pinned_dataset, refuse_hub
from recipe.preparation.files import (
    CORPUS_FOLDER,
    EVAL_FOLDER,
    write_beir,
    write_corpus,
    write_mined,
    write_split,
)
from recipe.preparation.held_out import barred_negatives, divided
from recipe.preparation.mining import Mined, Miner, as_given, parts, wanted_negatives
from recipe.preparation.split import Material, Question, with_ids
from recipe.progress import Log, Progress
from recipe.ray_workers import map_in_order
from recipe.stage import Input, Stage
from runtime.manifest import MANIFEST_FILE

# Below these, the figures of an evaluation or a training are mostly noise.
_FEW_QUERIES, _FEW_EXAMPLES = 50, 100
_SUM_TOLERANCE = 1e-6


def _inputs(settings: PrepConfig) -> list[Input]:
    inputs = []
    if not settings.source.startswith(HF):
        own = settings.data or settings.train_input_file
        what, made_by = ("labelled questions", None) if own else ("generated questions", "sdg")
        inputs = [Input(path, what, made_by) for path in parts_of(settings.source)]
    inputs += [
        Input(path, "evaluation data to hold out", None)
        for given in settings.hold_out_path
        for path in parts_of(given)
    ]
    # Anything else is a name on the hub.
    if settings.mining != "none" and _is_local(settings.base_model):
        inputs.append(Input(Path(settings.base_model), "embedder", None))
    return inputs


def _is_local(model: str) -> bool:
    return Path(model).is_dir() or model.startswith((".", "/"))


def _outputs(settings: PrepConfig) -> list[Path]:
    folder = settings.home
    names = ["train.json", "val.json", CORPUS_FOLDER, EVAL_FOLDER]
    for split in ("train", "val"):
        names += [f"{split}_mined.automodel.json", f"{split}_mined.automodel_unrolled.json"]
    return [folder / name for name in names]


def _check_values(settings: PrepConfig) -> None:
    total = settings.train_ratio + settings.val_ratio + settings.test_ratio
    if abs(total - 1) > _SUM_TOLERANCE:
        raise BadConfig(f"found train_ratio + val_ratio + test_ratio = {total:g}, wanted 1")
    for path in settings.hold_out_path:
        refuse_hub("hold_out_path", path)
    if not settings.source:
        raise BadConfig("found no data, wanted one of data, sdg_input_path and train_input_file")
    if settings.data and settings.train_input_file:
        raise BadConfig(
            "found data and train_input_file, wanted one: of data a part is held out for "
            "evaluation, all of train_input_file is for training"
        )


def _check(settings: PrepConfig) -> None:
    material = _material(settings, lambda _: None)
    if settings.mining == "none":
        return
    wanted = settings.hard_negatives_to_mine
    barred = barred_negatives(material)
    for split in ("train", "val"):
        for one in getattr(material, split):
            own = {*one.answers, *one.negatives}
            taken = len(barred[split]) + len(own - barred[split])
            need = wanted_negatives(one, wanted, settings.mining) - len(one.negatives)
            if len(material.corpus) - taken < need:
                raise BadInput(
                    f"found {len(material.corpus)} passages, of which {taken} answer the question "
                    f"{one.text!r}, are its given negatives or are held out; "
                    f"hard_negatives_to_mine = {wanted} needs {need} more of them: give more "
                    "documents"
                )


def _plan(settings: PrepConfig) -> list[str]:
    wanted = _first_stage(settings)
    artifact = artifact_directory(wanted)
    lines = [f"read {settings.source}"]
    if settings.mining == "none":
        return [*lines, f"take the given negatives, and write {settings.home}"]
    if not (artifact / MANIFEST_FILE).is_file() and artifact != Path(settings.base_model):
        lines.append(f"export the embedder {settings.base_model} to {artifact}")
    lines.append(
        f"mine {settings.hard_negatives_to_mine} negatives a question with {artifact}"
        + (f" on {settings.workers} Ray workers" if settings.workers > 1 else "")
    )
    return [*lines, f"write {settings.home}"]


def _run(settings: PrepConfig, log: Log) -> None:
    material = _material(settings, log)
    log(
        f"{len(material.corpus)} passages; questions: {len(material.train)} to train, "
        f"{len(material.val)} to validate, {len(material.test)} to test"
    )
    if len(material.test) < _FEW_QUERIES:
        log(f"warning: with under {_FEW_QUERIES} test questions, figures are mostly noise")
    if len(material.train) < _FEW_EXAMPLES:
        log(f"warning: with under {_FEW_EXAMPLES} training questions, training has little effect")
    folder, name = settings.home, settings.corpus_id
    write_corpus(folder, material.corpus, name)
    if material.test:
        write_beir(folder, material.corpus, material.test)
    splits = {"train": material.train, "val": material.val}
    for split, questions in splits.items():
        if questions:
            write_split(folder, split, questions, name)
    for split, mined in _mined(settings, material, log).items():
        if mined:
            write_mined(folder, split, mined, name)
    if material.val:
        log(f"finetune validates with {folder / 'val_mined.automodel_unrolled.json'}")


def _material(settings: PrepConfig, log: Log) -> Material:
    """Everything that is read, divided, and without what is held out. Raises BadInput."""
    broken = Broken(settings.max_broken_rows)
    source = read(settings.source, Reading(settings.columns, settings.encoding), broken, log)
    for note in source.notes:
        log(note)
    broken.settle(settings.source, log)
    log(f"{settings.source}: {source.form}, {len(source.rows)} rows")
    return with_ids(divided(source, settings, log))


def _mined(settings: PrepConfig, material: Material, log: Log) -> dict[str, list[Mined]]:
    """The questions of train and val that have the wanted number of negatives."""
    splits = {"train": material.train, "val": material.val}
    if settings.mining == "none":
        found = {split: [as_given(one) for one in held] for split, held in splits.items()}
    else:
        found = _mine(settings, material, splits, log)
    count, mining = settings.hard_negatives_to_mine, settings.mining
    whole = {
        split: [m for m in mined if len(m.negatives) >= wanted_negatives(m.question, count, mining)]
        for split, mined in found.items()
    }
    short = sum(len(found[split]) - len(whole[split]) for split in splits)
    why = "given" if mining == "none" else "below the margin"
    least = 1 if mining == "none" else count
    if not whole["train"]:
        raise StageFailed(
            f"no question has {least} negatives {why}"
            + (
                "; mining=missing mines them"
                if mining == "none"
                else f" (hard_neg_margin = {settings.hard_neg_margin}); raise it, or give more "
                "documents"
            )
        )
    if short:
        log(f"left out {short} question(s) with fewer than {least} negatives {why}")
    return whole


def _mine(
    settings: PrepConfig, material: Material, splits: dict[str, list[Question]], log: Log
) -> dict[str, list[Mined]]:
    embed = Embedding(_first_stage(settings), log, settings.workers, settings.ray_address)
    asked = {
        split: embed([one.text for one in questions], "query")
        for split, questions in splits.items()
        if questions
    }
    passages = embed(list(material.corpus.values()), "passage")
    how = (
        list(material.corpus),
        passages,
        settings.hard_negatives_to_mine,
        settings.hard_neg_margin,
        barred_negatives(material),
        settings.mining,
    )
    pieces = chain.from_iterable(parts(split, splits[split], asked[split]) for split in asked)
    progress = Progress("mine, questions", sum(map(len, splits.values())), log)
    every: list[Mined] = []
    for piece in map_in_order(Miner, how, pieces, settings.workers, settings.ray_address):
        every += piece
        progress.step(len(piece))
    found, start = {}, 0
    for split, questions in splits.items():
        found[split] = every[start : start + len(questions)]
        start += len(questions)
    return found


def _first_stage(settings: PrepConfig) -> FirstStage:
    return FirstStage(
        model=settings.base_model,
        target=settings.mining_target,
        query_prefix=settings.query_prefix,
        passage_prefix=settings.passage_prefix,
        query_max_length=settings.query_max_length,
        passage_max_length=settings.passage_max_length,
        folder=settings.embedder_dir,
        batch_rows=settings.mining_batch_size,
    )


def _sources(settings: PrepConfig) -> dict[str, str]:
    embedder = {} if settings.mining == "none" else embedder_commit(_first_stage(settings))
    return {**dataset_commit(settings.source), **embedder}


def _pin(settings: PrepConfig, commits: Mapping[str, str]) -> PrepConfig:
    pinned: PrepConfig = pin_models("base_model")(settings, commits)
    own = {
        key: pinned_dataset(given, commits)
        for key in ("data", "train_input_file")
        if (given := getattr(pinned, key)) is not None
    }
    return msgspec.structs.replace(pinned, **own)


STAGE = Stage(
    name="prep",
    about="training groups with hard negatives, and an evaluation set",
    settings=PrepConfig,
    inputs=_inputs,
    outputs=_outputs,
    check_values=_check_values,
    check=_check,
    plan=_plan,
    run=_run,
    free=frozenset({"mining_batch_size", "workers", "ray_address", "embedder_dir"}),
    sources=_sources,
    pin=_pin,
)
