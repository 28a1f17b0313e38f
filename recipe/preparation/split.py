"""Records → one corpus, and questions in splits that share no file."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from recipe.config import PrepConfig
from recipe.errors import BadInput
from recipe.generation.record import Record
from recipe.preparation.records import Question

_ID_DIGITS = 16


@dataclass(frozen=True)
class Material:
    """`corpus` maps passage ids to texts, in the order of the records; all splits share it."""

    corpus: dict[str, str]
    train: list[Question]
    val: list[Question]
    test: list[Question]


def passage_id(text: str) -> str:
    """`d_` and the first 16 hex digits of the text's sha256."""
    return "d_" + hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]


def convert(records: Sequence[Record], settings: PrepConfig) -> Material:
    """Keep pairs that score at least `quality_threshold`, and split them by file.

    Raises BadInput when there are too few files for the splits, or a split has no pairs.
    """
    corpus = {passage_id(c.text): c.text for record in records for c in record.chunks}
    groups = _file_groups(records)
    names = _split(sorted(set(groups)), settings)
    questions: dict[str, dict[str, list[str]]] = {split: {} for split in ("train", "val", "test")}
    for record, group in zip(records, groups, strict=True):
        texts = {chunk.chunk_id: chunk.text for chunk in record.chunks}
        opinions = record.qa_evaluations.evaluations
        for pair, opinion in zip(record.deduplicated_qa_pairs, opinions, strict=True):
            if opinion.overall.score < settings.quality_threshold or not pair.segment_ids:
                continue
            # The same question in another record of the split: add its passages to the answers.
            found = questions[names[group]].setdefault(pair.question, [])
            for name in pair.segment_ids:
                one = passage_id(texts[name])
                if one not in found and len(found) < settings.max_pos_docs:
                    found.append(one)
    made: dict[str, list[Question]] = {}
    number = 0
    for split, found_here in questions.items():
        made[split] = []
        for text, positives in found_here.items():
            made[split].append(Question(f"q{number}", text, tuple(positives)))
            number += 1
    _refuse_empty(made, settings)
    return Material(corpus, made["train"], made["val"], made["test"])


def _file_groups(records: Sequence[Record]) -> list[str]:
    """For each record the name of its group: records that share a file are in one split."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for record in records:
        first = find(record.file_name[0])
        for name in record.file_name[1:]:
            leader[find(name)] = first
    return [find(record.file_name[0]) for record in records]


def _split(groups: list[str], settings: PrepConfig) -> dict[str, str]:
    """The split of each group of files; depends on the names and the seed only."""
    random.Random(settings.seed).shuffle(groups)
    test, val = (
        max(1, round(len(groups) * ratio)) if ratio else 0
        for ratio in (settings.test_ratio, settings.val_ratio)
    )
    if len(groups) <= test + val:
        raise BadInput(
            f"found {len(groups)} separate group(s) of files, wanted more than {test + val}: "
            "training and evaluation must not share a file; give the stage sdg more documents"
        )
    names = ["test"] * test + ["val"] * val + ["train"] * (len(groups) - test - val)
    return dict(zip(groups, names, strict=True))


def _refuse_empty(made: dict[str, list[Question]], settings: PrepConfig) -> None:
    wanted = {"train": 1.0, "val": settings.val_ratio, "test": settings.test_ratio}
    for split, ratio in wanted.items():
        if ratio and not made[split]:
            raise BadInput(
                f"found no pair for {split} with a score of at least quality_threshold = "
                f"{settings.quality_threshold}; lower it, or give the stage sdg more documents"
            )
