"""The scores of a teacher, in a file beside the training data.

`recipe/distillation.py` writes the file, before training; every process of training reads it. Its
name has a hash of the teacher's name, so that the scores of several teachers lie side by side.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from recipe.addresses import public_address
from recipe.config import FinetuneConfig
from recipe.data.rows import passage_id, question_id
from recipe.durable import Journal, read_json, write_json
from recipe.errors import BadInput, StageFailed
from recipe.training.examples import read_examples
from recipe.training.groups import Group
from recipe.training.job import LATEST, TRAINER_FOLDER

_HASH_DIGITS = 12
_LEARNED_FILE = "teacher.json"
# The logit of each passage, by ids that are hashes of the texts: question → passage → logit.
Scores = Mapping[str, Mapping[str, float]]


class Head(msgspec.Struct, frozen=True):
    """The first line: the scores are valid while all of this is the same.

    `identity` is a hash of the teacher's files; empty for an endpoint.
    """

    teacher: str
    identity: str
    prompt_template: str | None
    max_tokens: int | None


class Row(msgspec.Struct, frozen=True):
    """Scores of passages of one question; another row may have more of them."""

    question: str
    scores: dict[str, float]


class _Learned(msgspec.Struct, frozen=True):
    """teacher.json, in the folder of the checkpoints: a hash of the scores that are learned."""

    scores: str


def scores_file(settings: FinetuneConfig) -> Path:
    """Where the scores of the settings' teacher are."""
    data = Path(settings.train_data_path)
    teacher = public_address(str(settings.teacher))
    name = hashlib.sha256(teacher.encode()).hexdigest()[:_HASH_DIGITS]
    return data.with_name(f"{data.name}.teacher-{name}.jsonl")


def journal(file: Path) -> Journal[Head | Row]:
    """The file, line by line."""
    return Journal(file, Row, Head)


def read_scores(file: Path) -> dict[str, dict[str, float]]:
    """All scores in the file. Raises OutputRefused for a damaged one."""
    found: dict[str, dict[str, float]] = {}
    for row in journal(file).entries():
        if isinstance(row, Row):
            found.setdefault(row.question, {}).update(row.scores)
    return found


def missing(groups: Sequence[Group], scores: Scores) -> dict[str, list[str]]:
    """The texts of the passages that have no score, by question."""
    asked: dict[str, dict[str, None]] = {}
    for group in groups:
        known = scores.get(question_id(group.query), {})
        lacking = [text for text in group.passages if passage_id(text) not in known]
        if lacking:
            asked.setdefault(group.query, {}).update(dict.fromkeys(lacking))
    return {question: list(texts) for question, texts in asked.items()}


def scored(groups: Sequence[Group], scores: Scores) -> list[Group]:
    """The groups with their scores. Raises BadInput where some are missing."""
    if lacking := missing(groups, scores):
        raise BadInput(
            f"found no score of the teacher for passages of {len(lacking)} question(s); run the "
            "stage finetune again, which asks the teacher for them"
        )
    return [
        replace(
            group,
            scores=tuple(scores[question_id(group.query)][passage_id(p)] for p in group.passages),
        )
        for group in groups
    ]


def keep_to_scores(settings: FinetuneConfig) -> None:
    """Record the scores that the settings' run learns, for all of its seeds.

    Raises StageFailed where it has learned others, BadInput where some are missing.
    """
    train, held_out = read_examples(settings, lambda _: None)
    groups = scored([*train, *(held_out or [])], read_scores(scores_file(settings)))
    scores = msgspec.json.encode([group.scores for group in groups])
    now = _Learned(hashlib.sha256(scores).hexdigest())
    folder = Path(settings.checkpoint_dir)
    before = read_json(folder / _LEARNED_FILE, _Learned)
    has_learned = (folder / LATEST).exists() or any((folder / TRAINER_FOLDER).glob("checkpoint-*"))
    if before not in (None, now) and has_learned:
        raise StageFailed(
            f"found other scores in {scores_file(settings)} than those that the run in {folder} "
            f"began with: {public_address(str(settings.teacher))} was another model then; a run "
            "has one teacher: --force starts over with this one"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _LEARNED_FILE, now)
