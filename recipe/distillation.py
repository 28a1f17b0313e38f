"""The teacher of the stage finetune: any model with scores is asked once for all of them.

Scores are kept as they come (`training/teacher_scores.py`), so that a stopped run goes on after the
last question. They are used again while the teacher is the same: a checkpoint or an artifact by the
hash of its files, an endpoint by its answers to some questions that are stored.
"""

import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from recipe.addresses import public_address
from recipe.clearing import set_aside
from recipe.config import EvalConfig, FinetuneConfig
from recipe.data.rows import passage_id, question_id
from recipe.durable import Journal
from recipe.errors import BadConfig, BadInput, RecipeError, StageFailed
from recipe.evaluation.scorers import Scorer, fingerprint, is_url, open_scorer
from recipe.progress import Log, Progress
from recipe.training.examples import read_examples
from recipe.training.groups import Group
from recipe.training.job import read_facts
from recipe.training.teacher_scores import (
    Head,
    Row,
    Scores,
    journal,
    missing,
    read_scores,
    scores_file,
)
from runtime.errors import ServingError
from runtime.manifest import MANIFEST_FILE, MODEL_FILE, read_manifest
from runtime.outputs import locked_work_folder

# Questions by which an endpoint is compared with what is stored.
_PROBES = 4
# Scores of one model differ by no more of their spread, or of their size: a half-precision model's
# depend on the rest of the batch, and have 11 binary digits.
_SAME_SPREAD, _SAME_SIZE = 0.01, 2.0**-10


def check_teacher(settings: FinetuneConfig) -> None:
    """Raise BadConfig or BadInput for a teacher that cannot be asked, before anything is read."""
    if is_url(str(settings.teacher)):
        _opened(settings).close()
    else:
        _head(settings)


def ask_teacher(settings: FinetuneConfig, log: Log) -> None:
    """Write the scores that are missing for training and validation.

    Raises StageFailed when the teacher gives none, BadConfig, BadInput or OutputRefused.
    """
    file = scores_file(settings)
    train, held_out = read_examples(settings, lambda _: None)
    groups = [*train, *(held_out or [])]
    with locked_work_folder(file, "finetune", wait=True):
        head, written = _head(settings), journal(file)
        if next(written.entries(), head) != head:
            log(f"{head.teacher} is not the model that gave the scores in {file}: asked anew")
            _keep(file, log)
        scores = read_scores(file)
        if is_url(head.teacher) and scores:
            probes = _probes(groups, scores)
            needed = bool(missing(groups, scores))
            if not probes:
                log(f"{file} has no score of these passages: {head.teacher} is asked anew")
            elif not _answers_as_before(settings, probes, needed, log):
                log(f"{head.teacher} serves another model than gave {file}: asked anew")
                probes = {}
            if not probes:
                _keep(file, log)
                scores = {}
        if lacking := missing(groups, scores):
            _ask(settings, head, lacking, written, log)
    log(f"learns the margins of {head.teacher}, in {file}")


def _keep(file: Path, log: Log) -> None:
    """Scores that somebody paid for stay, under another name."""
    log(f"the older scores are in {set_aside(file)}")


def _ask(
    settings: FinetuneConfig,
    head: Head,
    lacking: Mapping[str, Sequence[str]],
    written: Journal[Head | Row],
    log: Log,
) -> None:
    new = next(written.entries(), None) is None  # a killed run may leave an empty file
    progress = Progress("teacher, questions", len(lacking), log)
    with _teacher(settings) as scorer, written.open() as output:
        if new:
            output.write(head)
        for question, passages in lacking.items():
            output.write(
                Row(
                    question_id(question),
                    dict(
                        zip(
                            map(passage_id, passages),
                            _scores(scorer, question, passages),
                            strict=True,
                        )
                    ),
                )
            )
            progress.step()


def _probes(groups: Sequence[Group], scores: Scores) -> dict[str, dict[str, float]]:
    """Some questions, and the stored scores of their passages by text.

    Those whose scores are furthest apart: of passages that are all irrelevant, many models say the
    same. None when no passage of the groups has a score.
    """
    stored: dict[str, dict[str, float]] = {}
    for group in groups:
        known = scores.get(question_id(group.query), {})
        for text in group.passages:
            if (name := passage_id(text)) in known:
                stored.setdefault(group.query, {})[text] = known[name]
    widest = sorted(stored, key=lambda question: -_spread(stored[question].values()))
    return {question: stored[question] for question in widest[:_PROBES]}


def _spread(scores: Collection[float]) -> float:
    return max(scores) - min(scores)


def _answers_as_before(
    settings: FinetuneConfig, probes: Mapping[str, Mapping[str, float]], needed: bool, log: Log
) -> bool:
    """Whether the endpoint gives the probes their stored scores, if it answers at all.

    Raises StageFailed when it does not and is `needed` for others.
    """
    wanted = [score for known in probes.values() for score in known.values()]
    try:
        with _teacher(settings) as scorer:
            found = [
                score
                for question, known in probes.items()
                for score in _scores(scorer, question, list(known))
            ]
    except StageFailed as error:
        if needed:
            raise
        log(f"the scores of the teacher are used as they are stored: {error}")
        return True
    same = _SAME_SPREAD * _spread(wanted)
    return all(
        math.isclose(one, other, abs_tol=same, rel_tol=_SAME_SIZE)
        for one, other in zip(wanted, found, strict=True)
    )


def _scores(scorer: Scorer, question: str, passages: Sequence[str]) -> list[float]:
    """Finite logits, one for each passage. Raises StageFailed."""
    try:
        found = scorer.score(question, passages)
    except (RecipeError, ServingError) as error:
        raise StageFailed(
            f"the teacher {scorer.source} failed ({error}); what it has scored is kept, and the "
            "same command goes on"
        ) from error
    if len(found) != len(passages):
        raise StageFailed(
            f"the teacher {scorer.source} gave {len(found)} scores for {len(passages)} passages of "
            f"the question {question!r}; wanted one for each: name another teacher"
        )
    broken = [score for score in found if not math.isfinite(score)]
    if broken:
        raise StageFailed(
            f"the teacher {scorer.source} gave the score {broken[0]} for a passage of the question "
            f"{question!r}; wanted finite numbers: name another teacher, or another precision of it"
        )
    return found


@contextmanager
def _teacher(settings: FinetuneConfig) -> Iterator[Scorer]:
    """The opened teacher; afterwards its memory on a GPU is free for the training."""
    with closing(_opened(settings)) as scorer:
        yield scorer
    if (torch := sys.modules.get("torch")) is not None:
        torch.cuda.empty_cache()


def _opened(settings: FinetuneConfig) -> Scorer:
    head = _head(settings)
    return open_scorer(
        str(settings.teacher),
        head.prompt_template,
        head.max_tokens or settings.rerank_max_length,
        EvalConfig(nim_api_key_env=settings.teacher_api_key_env),
        key_setting="teacher_api_key_env",
    )


def _head(settings: FinetuneConfig) -> Head:
    """Who the teacher is, and how it reads a pair: in its own prompt, within our token limit."""
    source, limit = str(settings.teacher), settings.rerank_max_length
    if is_url(source):
        return Head(public_address(source), "", None, None)
    directory = Path(source)
    if (directory / MANIFEST_FILE).is_file():
        manifest = read_manifest(directory)
        if manifest.kind != "rank":
            raise BadInput(f"found an embedder in {source}, wanted a reranker as the teacher")
        return Head(source, manifest.version, manifest.prompt, min(limit, manifest.max_tokens))
    if (directory / MODEL_FILE).is_file():
        raise BadConfig(
            f"found a graph without {MANIFEST_FILE} in {source}, which does not say how its model "
            "is prompted; name an artifact of rerank-export, or an endpoint that serves it"
        )
    from recipe.training.checkpoint import TEMPLATED, read_whole, refuse_judge  # late: torch

    checkpoint = read_whole(source)
    refuse_judge(checkpoint)
    facts = read_facts(checkpoint.directory)
    ours = settings.prompt_template if checkpoint.architecture in TEMPLATED else None
    template = facts.prompt_template if facts else ours
    return Head(source, fingerprint(checkpoint.directory), template, limit)
