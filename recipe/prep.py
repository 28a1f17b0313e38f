"""Stage 1, prep: training groups with hard negatives, and an evaluation set."""

from pathlib import Path

from recipe.config import PrepConfig
from recipe.errors import BadConfig, BadInput, StageFailed
from recipe.first_stage import Embedding, FirstStage, artifact_directory, embedder_commit
from recipe.generation.record import RESULT_FILE
from recipe.hub import pin_models
from recipe.preparation.files import (
    CORPUS_FOLDER,
    EVAL_FOLDER,
    write_beir,
    write_corpus,
    write_mined,
    write_split,
)
from recipe.preparation.mining import Mined, Miner, parts
from recipe.preparation.records import Question, read_records, records_file
from recipe.preparation.split import Material, convert
from recipe.progress import Log
from recipe.ray_workers import map_in_order
from recipe.stage import Input, Stage
from runtime.manifest import MANIFEST_FILE
from runtime.postprocess import unit

# Below these, the figures of an evaluation or a training are mostly noise.
_FEW_QUERIES, _FEW_EXAMPLES = 50, 100
_SUM_TOLERANCE = 1e-6


def _inputs(settings: PrepConfig) -> list[Input]:
    given = Path(settings.sdg_input_path)
    inputs = [Input(given, "generated questions", "sdg")]
    if given.is_dir() or not given.exists():
        inputs = [Input(given / RESULT_FILE, "generated questions", "sdg")]
        if (given / RESULT_FILE).exists():
            inputs.append(Input(records_file(given), "generated questions", "sdg"))
    # Anything else is a name on the hub.
    if Path(settings.base_model).is_dir() or settings.base_model.startswith((".", "/")):
        inputs.append(Input(Path(settings.base_model), "embedder", None))
    return inputs


def _outputs(settings: PrepConfig) -> list[Path]:
    folder = settings.home
    names = ["train.json", "val.json", CORPUS_FOLDER, EVAL_FOLDER]
    for split in ("train", "val"):
        names += [f"{split}_mined.automodel.json", f"{split}_mined.automodel_unrolled.json"]
    return [folder / name for name in names]


def _check(settings: PrepConfig) -> None:
    total = settings.train_ratio + settings.val_ratio + settings.test_ratio
    if abs(total - 1) > _SUM_TOLERANCE:
        raise BadConfig(f"found train_ratio + val_ratio + test_ratio = {total:g}, wanted 1")
    material = _material(settings, lambda _: None)
    most = max(len(one.positives) for one in material.train)
    left = len(material.corpus) - most
    if left < settings.hard_negatives_to_mine:
        raise BadInput(
            f"found {len(material.corpus)} passages, of which a question takes up to {most}; "
            f"hard_negatives_to_mine = {settings.hard_negatives_to_mine} needs more of them: give "
            "the stage sdg more documents"
        )


def _plan(settings: PrepConfig) -> list[str]:
    wanted = _first_stage(settings)
    artifact = artifact_directory(wanted)
    lines = []
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
    write_beir(folder, material.corpus, material.test)
    splits = {"train": material.train, "val": material.val}
    for split, questions in splits.items():
        if questions:
            write_split(folder, split, questions, name)
    mined = _mine(settings, material, log)
    for split, questions in splits.items():
        if questions:
            ids = {one.id for one in questions}
            write_mined(folder, split, [one for one in mined if one.question.id in ids], name)


def _material(settings: PrepConfig, log: Log) -> Material:
    file = records_file(Path(settings.sdg_input_path))
    records = read_records(file, skip_broken=settings.skip_broken_lines, log=log)
    return convert(records, settings)


def _mine(settings: PrepConfig, material: Material, log: Log) -> list[Mined]:
    questions: list[Question] = [*material.train, *material.val]
    embed = Embedding(_first_stage(settings), log, settings.workers, settings.ray_address)
    asked = unit(embed([one.text for one in questions], "query"))
    passages = unit(embed(list(material.corpus.values()), "passage"))
    how = (
        list(material.corpus),
        passages,
        settings.hard_negatives_to_mine,
        settings.hard_neg_margin,
    )
    pieces = map_in_order(
        Miner, how, parts(questions, asked), settings.workers, settings.ray_address
    )
    mined = [one for piece in pieces for one in piece]
    whole = [one for one in mined if len(one.negatives) == settings.hard_negatives_to_mine]
    if not whole:
        raise StageFailed(
            f"no question has {settings.hard_negatives_to_mine} negatives below hard_neg_margin = "
            f"{settings.hard_neg_margin}; raise it, or give the stage sdg more documents"
        )
    if len(whole) < len(mined):
        log(
            f"left out {len(mined) - len(whole)} question(s) with fewer than "
            f"{settings.hard_negatives_to_mine} negatives below the margin"
        )
    return whole


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


STAGE = Stage(
    name="prep",
    about="training groups with hard negatives, and an evaluation set",
    settings=PrepConfig,
    inputs=_inputs,
    outputs=_outputs,
    check=_check,
    plan=_plan,
    run=_run,
    free=frozenset({"mining_batch_size", "workers", "ray_address", "embedder_dir"}),
    sources=lambda settings: embedder_commit(_first_stage(settings)),
    pin=pin_models("base_model"),
)
