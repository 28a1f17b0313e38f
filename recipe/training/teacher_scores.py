"""The scores of a teacher, in a file beside the training data.

`recipe/distillation.py` writes the file, before training; every process of training reads it. Its
name has a hash of the teacher's name, so that the scores of several teachers lie side by side.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from recipe.config import FinetuneConfig
from recipe.data.rows import passage_id, question_id
from recipe.durable import Journal
from recipe.errors import BadInput
from recipe.training.groups import Group

_HASH_DIGITS = 12
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


def scores_file(settings: FinetuneConfig) -> Path:
    """Where the scores of the settings' teacher are."""
    data = Path(settings.train_data_path)
    name = hashlib.sha256(str(settings.teacher).encode()).hexdigest()[:_HASH_DIGITS]
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
