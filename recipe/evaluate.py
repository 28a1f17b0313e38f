"""Stage 3, eval: the same first-stage candidates, reranked by each available model."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from recipe.config import EvalConfig
from recipe.durable import write_atomic, write_json
from recipe.errors import BadConfig, BadInput, Worsened
from recipe.evaluation.candidates import (
    CANDIDATES_FILE,
    find_candidates,
    read_candidates,
    write_candidates,
)
from recipe.evaluation.collection import Collection
from recipe.evaluation.drift import Drift
from recipe.evaluation.labelled import open_collection
from recipe.evaluation.measured import Measured
from recipe.evaluation.overlap import measured_with
from recipe.evaluation.pairs import TUNING, seed_pairs, sentences, tables, worsening
from recipe.evaluation.results import RESULTS_FILE, read_results
from recipe.evaluation.scorers import (
    ArtifactScorer,
    CheckpointScorer,
    EndpointScorer,
    Scorer,
    key_of,
)
from recipe.evaluation.session import (
    SETTING_FILE,
    Session,
    Setting,
    drift_sentence,
    require_no_drift,
)
from recipe.evaluation.spread import spread_table
from recipe.evaluation.vision import require_found, require_sight, sight_of
from recipe.first_stage import Embedding, FirstStage, embedder_commit
from recipe.hub import model_commit, pin_models, refuse_hub
from recipe.progress import Log
from recipe.stage import Input, Stage
from recipe.training.job import LATEST, of_seed, read_facts
from recipe.training.trained_on import TRAINED_ON_FILE, read_trained_on
from runtime.manifest import MANIFEST_FILE, read_manifest

# The folder of the second evaluation set, in that of the first.
GUARD = "guard"
SEEDS_FILE = "seeds.md"
# Above so many, comparing takes seconds.
_MANY_QUERIES = 5000
_ADVICE = (
    "Train with a lower learning_rate, fewer epochs or more data; allow_worse=true takes the model "
    "as it is"
)


def _inputs(settings: EvalConfig) -> list[Input]:
    inputs = [Input(Path(settings.eval_data_path), "evaluation data", "prep")]
    if settings.eval_finetuned:
        path = Path(settings.finetuned_model_path)
        inputs.append(Input(path, "fine-tuned checkpoint", "finetune"))
        inputs += [
            Input(path, "fine-tuned checkpoint of another seed", "finetune")
            for path in _other_seeds(settings)
        ]
    for column, directory in _artifacts(settings):
        inputs.append(Input(Path(directory), f"artifact for the column {column}", "export"))
    for name, what in ((settings.base_model, "base model"), (settings.retrieval_model, "embedder")):
        if Path(name).is_dir():
            inputs.append(Input(Path(name), what, None))
    if settings.guard_data_path is not None:
        inputs.append(Input(Path(settings.guard_data_path), "second evaluation set", None))
    return inputs


def _other_seeds(settings: EvalConfig) -> list[Path]:
    """The checkpoints of the seeds after the first."""
    first = Path(settings.finetuned_model_path)
    return [seed_checkpoint(first, number) for number in range(1, settings.seeds)]


def seed_checkpoint(first: Path, number: int) -> Path:
    """The checkpoint of the seed `number` after the `first`, where finetune wrote it."""
    return of_seed(first.parents[len(LATEST.parts) - 1], number) / LATEST


def _sources(settings: EvalConfig) -> dict[str, str]:
    base = model_commit(settings.base_model) if settings.eval_base else {}
    return {**base, **embedder_commit(_first_stage(settings))}


def _check_values(settings: EvalConfig) -> None:
    refuse_hub("eval_data_path", settings.eval_data_path)
    if settings.top_k < max(settings.k_values):
        raise BadConfig(
            f"found top_k = {settings.top_k} and k_values up to {max(settings.k_values)}, wanted "
            "top_k at least as large: metrics cannot be deeper than the reranked list"
        )
    if settings.seeds > 1 and Path(settings.finetuned_model_path).parts[-3:] != LATEST.parts:
        raise BadConfig(
            f"found seeds = {settings.seeds} and finetuned_model_path = "
            f"{settings.finetuned_model_path}, wanted a path that ends in {LATEST}, beside which "
            "finetune writes the other seeds"
        )
    refuse_hub("guard_data_path", settings.guard_data_path)
    if settings.guard_data_path is not None and not (
        settings.eval_base and settings.eval_finetuned
    ):
        raise BadConfig(
            "found guard_data_path without eval_base and eval_finetuned, wanted both: what was "
            "forgotten is measured against the base"
        )


def _check_endpoint(settings: EvalConfig) -> None:
    """Check address and key before the checkpoints are measured."""
    if settings.eval_nim:
        _scorer(settings, "nim", settings.nim_url).close()


def _check(settings: EvalConfig) -> None:
    refuse_other_template(
        settings.finetuned_model_path if settings.eval_finetuned else None, settings.prompt_template
    )
    for _, directory in _artifacts(settings):
        _refuse_artifact_of_another_template(Path(directory), settings.prompt_template)
    _check_data(settings, "eval_data_path")
    if settings.guard_data_path is not None:
        _check_data(_guarding(settings), "guard_data_path")


def _guarding(settings: EvalConfig) -> EvalConfig:
    """The settings of the evaluation against forgetting: base and fine-tuned, on the second set."""
    return msgspec.structs.replace(
        settings,
        eval_data_path=str(settings.guard_data_path),
        eval_nim=False,
        onnx_model_path=None,
        trt_model_path=None,
        seeds=1,
    )


def _check_data(settings: EvalConfig, key: str) -> None:
    collection = open_collection(Path(settings.eval_data_path))
    if len(collection.texts) < max(settings.k_values):
        raise BadInput(
            f"the corpus of {key} holds {len(collection.texts)} passages, fewer than the deepest "
            f"of k_values ({max(settings.k_values)}); lower k_values and top_k, or add documents"
        )
    _check_images(settings, collection)


def _check_images(settings: EvalConfig, collection: Collection) -> None:
    """Of an endpoint, only its answer says whether it takes images."""
    if not collection.images:
        return
    measured = [source for name, source in _wanted(settings) if name != "nim"]
    require_sight(collection, measured, settings.max_length)
    require_found(collection, settings.retrieval_model)
    if sight_of(settings.retrieval_model) is not None:
        require_sight(collection, [settings.retrieval_model], settings.max_length)
    for image in collection.images.values():
        image.decode()


def refuse_other_template(checkpoint: str | None, template: str | None) -> None:
    """Raise BadConfig when the checkpoint was trained with another prompt."""
    facts = read_facts(Path(checkpoint)) if checkpoint else None
    if facts is not None and facts.prompt_template != template:
        raise BadConfig(
            f"found prompt_template = {template!r}, but {checkpoint} was trained with "
            f"{facts.prompt_template!r}; wanted the same in finetune, eval and export"
        )


def _refuse_artifact_of_another_template(directory: Path, template: str | None) -> None:
    if not (directory / MANIFEST_FILE).is_file():  # a bare graph: checked when it is opened
        return
    found = read_manifest(directory).prompt
    if found != template:
        raise BadConfig(
            f"found prompt_template = {template!r}, but the artifact {directory} was made for "
            f"{found!r}; wanted the same in finetune, eval and export"
        )


def _plan(settings: EvalConfig) -> list[str]:
    columns = [name for name, _ in _wanted(settings)]
    guard = [] if settings.guard_data_path is None else [settings.guard_data_path]
    return [
        f"retrieve {settings.top_k} candidates a query with {settings.retrieval_model}",
        f"measure {', '.join(columns) or 'nothing'} at k = {settings.k_values}",
        *(f"measure base and finetuned on {path} too, against forgetting" for path in guard),
        f"write {settings.home / RESULTS_FILE} and drift.md",
    ]


def _run(settings: EvalConfig, log: Log) -> None:
    directory = settings.home
    drift = _measure(settings, directory, log)
    report = directory / "drift.md"
    worse = _worse(drift, report)
    if settings.guard_data_path is not None:
        log(f"against forgetting: {settings.guard_data_path}")
        guard = directory / GUARD
        worse += _worse(_measure(_guarding(settings), guard, log), guard / "drift.md")
    if worse and not settings.allow_worse:
        # A drift would end with another code, and must not hide this.
        found = [*worse, drift_sentence(drift, report), _ADVICE]
        raise Worsened(". ".join(filter(None, found)))
    for sentence in worse:
        log(f"warning: {sentence} (allow_worse=true)")
    require_no_drift(drift, report)


def _measure(settings: EvalConfig, directory: Path, log: Log) -> Drift:
    """Measure all columns in the directory, and say what can be said of them."""
    session = _session(settings, directory, log)
    if settings.eval_finetuned:
        _warn_of_trained(settings.finetuned_model_path, session.collection, log)
    for name, source in _wanted(settings):
        log(f"measure {name}: {source}")
        with closing(_scorer(settings, name, source)) as scorer:
            session.add(name, scorer, log)
    for name, column in read_results(directory).items():
        figures = ", ".join(f"{key} {value:.4f}" for key, value in column.NDCG.items())
        log(f"{name}: {figures}")
    if settings.eval_finetuned and settings.seeds > 1:
        _measure_seeds(settings, session, log)
    queries = len(session.collection.grades)
    if queries >= _MANY_QUERIES:
        log(f"compare the columns over {queries} queries")
    drift = session.write_drift()
    for pair in drift.pairs[:1]:
        log(" ".join(sentences(pair)))
    return drift


def _measure_seeds(settings: EvalConfig, session: Session, log: Log) -> None:
    """Measure the other seeds' checkpoints; write mean and spread of all, and their gains."""
    results = read_results(session.directory)
    seeds = {"finetuned": results["finetuned"]}
    for number, path in enumerate(_other_seeds(settings), start=1):
        name = seed_column(number)
        with closing(_scorer(settings, "finetuned", str(path))) as scorer:
            seeds[name] = session.measure(name, scorer, log)
    base = results.get("base")
    lines = spread_table(base, list(seeds.values()))
    for line in lines:
        log(line)
    if base is not None:
        scores = {name: session.scores(name) for name in ("base", *seeds)}
        pairs = seed_pairs(Measured(results, scores, session.collection, settings.k_values))
        log(" ".join(sentences(pairs[0])))
        lines += ["", *tables(pairs)]
    file = session.directory / SEEDS_FILE
    write_atomic(file, "\n".join(["# Seeds", "", *lines, ""]).encode())


def seed_column(number: int) -> str:
    """The name of the scores of a seed after the first."""
    return f"finetuned-seed-{number}"


def _worse(drift: Drift, report: Path) -> list[str]:
    """That the fine-tuned model is worse than the base by more than chance, if it is."""
    tuned = (one for one in drift.pairs if (one.before, one.after) == TUNING)
    return [
        f"{fallen}; the worst queries are in {report}" for fallen in map(worsening, tuned) if fallen
    ]


def _warn_of_trained(checkpoint: str, collection: Collection, log: Log) -> None:
    """Say what of the evaluation the checkpoint was trained on."""
    found = read_trained_on(Path(checkpoint))
    if found is None:
        log(
            f"cannot tell whether {checkpoint} was trained on questions of the evaluation: it has "
            f"no {TRAINED_ON_FILE}, which the stage finetune writes"
        )
        return
    both = measured_with(found, collection)
    advice = "`rerank prep` with data=… or hold_out_path=… leaves them out of training"
    if both.questions:
        log(
            f"warning: the checkpoint was trained on {len(both.questions)} of "
            f"{len(collection.queries)} questions of the evaluation (first: "
            f"{both.questions[0]!r}): its figures say little; {advice}"
        )
    if both.chosen_by:
        log(
            f"warning: {len(both.chosen_by)} of {len(collection.queries)} questions of the "
            f"evaluation (first: {both.chosen_by[0]!r}) were its validation data, by which its "
            "best step was chosen: its figures are too good; set val_data_path to other questions"
        )
    if both.answers:
        log(
            f"warning: {len(both.answers)} passage(s) that answer a question of the evaluation "
            f"were negatives of training: its figures are the worse for it; {advice}"
        )


def _wanted(settings: EvalConfig) -> Iterator[tuple[str, str]]:
    """Column and source of each model that this run measures."""
    if settings.eval_base:
        yield "base", settings.base_model
    if settings.eval_finetuned:
        yield "finetuned", settings.finetuned_model_path
    yield from _artifacts(settings)
    if settings.eval_nim:
        yield "nim", settings.nim_url


def _artifacts(settings: EvalConfig) -> Iterator[tuple[str, str]]:
    """Column and directory of the artifacts in the settings."""
    if settings.onnx_model_path is not None:
        yield "onnx", settings.onnx_model_path
    if settings.trt_model_path is not None:
        yield "tensorrt", settings.trt_model_path


def open_artifact(
    column: str, directory: Path, template: str | None, max_tokens: int
) -> ArtifactScorer:
    """The artifact for its column; the column of a plan is never measured with another engine.

    Raises BadInput or ServingError.
    """
    engine = "tensorrt" if column == "tensorrt" else None
    return ArtifactScorer(directory, template, max_tokens, engine)


def _scorer(settings: EvalConfig, name: str, source: str) -> Scorer:
    if name == "nim":
        return EndpointScorer(
            source,
            settings.nim_model,
            settings.nim_batch_size,
            settings.nim_timeout,
            api_key=key_of(settings.nim_api_key_env),
        )
    if name in ("onnx", "tensorrt"):
        return open_artifact(name, Path(source), settings.prompt_template, settings.max_length)
    return CheckpointScorer(
        source, settings.prompt_template, settings.max_length, settings.batch_size
    )


def _session(settings: EvalConfig, directory: Path, log: Log) -> Session:
    """The session: candidates from the cache or newly found, and the first stage's own column.

    Columns that were measured on other data or candidates are dropped, and that is logged.
    """
    collection = open_collection(Path(settings.eval_data_path))
    embed = Embedding(_first_stage(settings), log)
    if collection.images and not embed.sees:
        log("the embedder takes no images: passages are found by their texts alone")
    key: dict[str, str | int] = {
        "eval_beir": collection.digest,
        "retriever": embed.version,
        "query_prefix": settings.query_prefix,
        "passage_prefix": settings.passage_prefix,
        "max_length": settings.max_length,
        "top_k": settings.top_k,
    }
    file = directory / CANDIDATES_FILE
    candidates = read_candidates(file, key)
    if candidates is None:
        chunk = settings.corpus_chunk_size
        candidates = find_candidates(collection, embed, settings.top_k, chunk, key, log)
        write_candidates(file, candidates)
    setting = Setting(
        eval_data_path=settings.eval_data_path,
        k_values=settings.k_values,
        max_length=settings.max_length,
        prompt_template=settings.prompt_template,
        batch_size=settings.batch_size,
        key=key,
    )
    write_json(directory / SETTING_FILE, setting)
    session = Session(directory, setting, collection, candidates)
    dropped = session.drop_others()
    if dropped:
        log(f"dropped {', '.join(dropped)}: measured on other data or settings")
    for sentence in session.add_retrieval(settings.retrieval_model, embed.version):
        log(sentence)
    return session


def _first_stage(settings: EvalConfig) -> FirstStage:
    return FirstStage(
        model=settings.retrieval_model,
        target=settings.retrieval_target,
        query_prefix=settings.query_prefix,
        passage_prefix=settings.passage_prefix,
        query_max_length=settings.max_length,
        passage_max_length=settings.max_length,
        folder=settings.embedder_dir,
        batch_rows=settings.batch_size,
    )


def _outputs(settings: EvalConfig) -> Sequence[Path]:
    names = (
        RESULTS_FILE,
        "drift.md",
        "drift.svg",
        SETTING_FILE,
        CANDIDATES_FILE,
        "scores",
        GUARD,
        SEEDS_FILE,
    )
    return [settings.home / name for name in names]


STAGE = Stage(
    name="eval",
    about="rerank first-stage candidates with every model and compare",
    settings=EvalConfig,
    inputs=_inputs,
    outputs=_outputs,
    check_values=_check_values,
    check=_check,
    check_machine=_check_endpoint,
    plan=_plan,
    run=_run,
    free=frozenset({"embedder_dir", "nim_api_key_env"}),
    sources=_sources,
    pin=pin_models("base_model", "retrieval_model"),
    again="changed",
)
