"""Rows of people's own files: which columns hold question, answers and other passages.

The spellings are those of sentence-transformers (anchor, positive, negative_1 …; sentence1,
sentence2, label; query, docs, labels), FlagEmbedding (query, pos, neg), Automodel (query or
question, pos_doc, neg_doc), Tevatron and DPR (positive_passages, positive_ctxs), MS MARCO
(query, passages; triples without a header) and of tables of questions and answers.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from recipe.config import Columns
from recipe.data.rows import BadRow, Row, Source, question_id, usable
from recipe.errors import BadConfig, BadInput

_QUERY = ("query", "question", "anchor", "sentence1", "queries")
_POSITIVE = (
    *("positive", "positives", "pos", "pos_doc", "positive_passages", "positive_ctxs"),
    *("answer", "answers", "response", "passage", "passages", "document", "documents"),
    *("doc", "docs", "text", "context", "sentence2"),
)
_NEGATIVE = (
    *("negative", "negatives", "neg", "neg_doc", "hard_negatives", "negative_passages"),
    *("hard_negative_ctxs", "negative_ctxs"),
)
_LABEL = ("label", "labels", "score", "relevance")
_ID = ("question_id", "query_id", "query-id", "qid", "_id", "id")
_SPLIT = ("split",)
_NUMBERED = re.compile(r"(positive|negative|pos|neg|hard_negative)s?[_-]?\d+", re.ASCII)
_SPLITS = {
    "train": "train",
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "eval", "evaluation"), "test"),
}
_RELEVANT = 0.5

SPELLINGS = frozenset((*_QUERY, *_POSITIVE, *_NEGATIVE, *_LABEL))


def known_names(columns: Columns) -> frozenset[str]:
    """All names, in lower case, by which a header is recognised."""
    named = {name.lower() for name in msgspec.structs.astuple(columns) if name}
    return SPELLINGS | named


def headless(width: int) -> Sequence[str] | None:
    """The columns of a table without a header: MS MARCO's triples, or pairs."""
    return {2: ("query", "positive"), 3: ("query", "positive", "negative")}.get(width)


def split_of(name: str) -> str | None:
    """The split that a name of a file, folder or column stands for; None for no known one."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


@dataclass(frozen=True)
class Chosen:
    """The columns of a file, by what they hold; `rest` are not read."""

    query: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    label: str | None
    id: str | None
    split: str | None
    rest: tuple[str, ...]

    def row(
        self, record: dict[str, Any], source: Source, split: str | None, origin: dict[str, Any]
    ) -> Row:
        """The row of a record of a file of `split`; its passages go to `source`.

        `origin` is the metadata of all the file's rows. Raises BadRow.
        """
        question = usable(record.get(self.query), self.query)
        graded: dict[str, int] = {}
        negatives: list[str] = []
        for name in self.positive:
            texts = _texts(record.get(name), name)
            grades = _grades(record, name, self.label, len(texts))
            for text, grade in zip(texts, grades, strict=True):
                one = source.passage(text)
                if grade > 0:
                    graded[one] = max(grade, graded.get(one, 0))
                else:
                    negatives.append(one)
        for name in self.negative:
            negatives += [source.passage(text) for text in _texts(record.get(name), name)]
        if not graded and not negatives:
            raise BadRow(f"found no passage in {', '.join((*self.positive, *self.negative))}")
        given = None if self.id is None else record.get(self.id)
        own = None if self.split is None else split_of(str(record.get(self.split)))
        return Row(
            question,
            tuple(graded),
            tuple(one for one in dict.fromkeys(negatives) if one not in graded),
            () if all(grade == 1 for grade in graded.values()) else tuple(graded.values()),
            id=question_id(question) if given in (None, "") else str(given),
            split=own or split,
            metadata=origin,
        )


def choose(names: Iterable[str], columns: Columns, file: object) -> Chosen:
    """The columns of a file with these names. Raises BadInput, or BadConfig for a named one."""
    present = {name.lower(): name for name in names}

    def find(key: str, spellings: Sequence[str]) -> tuple[str, ...]:
        named = getattr(columns, key)
        if named is not None:
            if named.lower() not in present:
                raise BadConfig(
                    f"found no column {named!r} (columns.{key}) in {file}, which has "
                    f"{', '.join(present.values()) or 'none'}"
                )
            return (present[named.lower()],)
        return tuple(present[one] for one in spellings if one in present)

    def numbered(kind: str) -> tuple[str, ...]:
        found = [name for name in present if _NUMBERED.fullmatch(name) and kind in name]
        return tuple(present[name] for name in sorted(found, key=_by_number))

    query, positive = find("query", _QUERY), find("positive", _POSITIVE)
    negative, label = find("negative", _NEGATIVE), find("label", _LABEL)
    positive = tuple(name for name in positive if name not in query)
    positive, negative = (*positive, *numbered("pos")), (*negative, *numbered("neg"))
    if not query or not (positive or negative):
        raise BadInput(
            f"found the columns {', '.join(present.values()) or 'none'} in {file}, wanted one of a "
            f"question ({', '.join(_QUERY)}) and one of passages that answer it "
            f"({', '.join(_POSITIVE[:8])}, …); name them with columns.query=… and "
            "columns.positive=…, or run `rerank sdg` when these are texts without questions"
        )
    for key, found in (("query", query), ("positive", _rivals(positive))):
        if len(found) > 1:
            raise BadInput(
                f"found the columns {' and '.join(found)} in {file}, each of which may be the "
                f"{key}; name one with columns.{key}={found[0]}"
            )
    ids, splits = find("id", _ID), find("split", _SPLIT)
    used = {*query, *positive, *negative, *label[:1], *ids[:1], *splits}
    return Chosen(
        query[0],
        positive,
        negative,
        # Beside a negative, a label is the margin of a distillation.
        label[0] if label and not negative else None,
        ids[0] if ids else None,
        splits[0] if splits else None,
        tuple(name for name in present.values() if name not in used),
    )


def _rivals(positive: Sequence[str]) -> tuple[str, ...]:
    """The columns that are one alternative each: numbered ones belong together."""
    return tuple(name for name in positive if not _NUMBERED.fullmatch(name.lower()))


def _by_number(name: str) -> int:
    return int(re.sub(r"\D", "", name))


def _texts(value: Any, name: str) -> list[str]:
    """The texts of a cell: a text, a document with title and text, or a list of either."""
    if value is None or value == "":
        return []
    if isinstance(value, str) and value.startswith("["):
        value = _list_in_text(value)
    if isinstance(value, dict) and isinstance(value.get("passage_text"), list):
        value = value["passage_text"]  # MS MARCO
    many = value if isinstance(value, list) else [value]
    return [usable(_text(one), name) for one in many]


def _list_in_text(value: str) -> Any:
    """The list that a table holds as text; the text itself when it is none."""
    try:
        return msgspec.json.decode(value, type=list[str])
    except msgspec.DecodeError:
        return value


def _text(one: Any) -> Any:
    if not isinstance(one, dict):
        return one
    if "text" not in one:
        raise BadRow(
            f"found a passage with {', '.join(map(str, one)) or 'no keys'}, wanted its text: ids "
            "need the corpus beside them (Automodel's or BEIR's form)"
        )
    return f"{one.get('title') or ''} {one['text'] or ''}".strip()


def _grades(record: dict[str, Any], name: str, label: str | None, count: int) -> list[int]:
    """The grade of each text of the column `name`: 1, or what the labels say."""
    value = record.get(name)
    if isinstance(value, dict) and "is_selected" in value:
        labels = value["is_selected"]
    elif label is None or _NUMBERED.fullmatch(name.lower()):
        return [1] * count
    else:
        labels = record.get(label)
    if isinstance(labels, str) and labels.startswith("["):
        labels = _list_in_text(labels)
    many = labels if isinstance(labels, list) else [labels]
    if len(many) != count:
        raise BadRow(f"found {len(many)} label(s) for {count} passage(s)")
    return [_grade(one) for one in many]


def _grade(label: Any) -> int:
    try:
        value = float(label)
    except (TypeError, ValueError):
        raise BadRow(f"found the label {label!r}, wanted a number") from None
    if not math.isfinite(value):
        raise BadRow(f"found the label {label!r}, wanted a number")
    return int(value) if value >= 1 else int(value >= _RELEVANT)
