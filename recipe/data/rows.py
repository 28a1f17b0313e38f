"""What every reader makes: questions with passages that answer them and passages that do not."""

import hashlib
import sys
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recipe.errors import BadInput
from recipe.progress import Log

_ID_DIGITS = 16
_MAX_LISTED = 5
SPLITS = ("train", "val", "test")


def passage_id(text: str) -> str:
    """`d_` and the first 16 hex digits of the text's sha256: equal texts are one passage."""
    return "d_" + _digest(text)


def question_id(text: str) -> str:
    """Likewise, `q_`: the id of a question whose data give it none."""
    return "q_" + _digest(text)


def normal(text: str) -> str:
    """`text` without differences of case, width and white space: what counts as the same text."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled question; `positives` and `negatives` are passage ids, best first.

    `grades` are those of the positives (empty: all 1). `split` is one of SPLITS, or None where the
    data name none. Rows that share a name of `group` belong into one split. `quality` is a judge's
    score from 0 to 10. `metadata` is what is kept beside the question.
    """

    question: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    grades: tuple[int, ...] = ()
    id: str | None = None
    split: str | None = None
    group: tuple[str, ...] = ()
    quality: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Source:
    """What was read: `texts` by passage id, in the order of the data, and `rows`.

    `form` says what was found, in words; `notes` say what was left unread.
    """

    form: str
    texts: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def passage(self, text: str) -> str:
        """The id of a passage, which is kept."""
        name = sys.intern(passage_id(text))  # one object, however many rows name it
        self.texts.setdefault(name, text)
        return name


class BadRow(Exception):
    """A row that cannot be used; the message says what was found and wanted."""


class Broken:
    """Rows that cannot be used, counted and named; `most` may be left out (None: any number).

    `key` is the setting that says how many, where there is one.
    """

    def __init__(self, most: int | None, key: str | None = "max_broken_rows") -> None:
        self.most = most
        self.key = key
        self.count = 0
        self.first: list[str] = []

    def add(self, place: str, why: object) -> None:
        """Count one row."""
        self.count += 1
        if len(self.first) < _MAX_LISTED:
            self.first.append(f"{place}: {why}")

    def shown(self) -> str:
        """The first ones, in one line."""
        return "; ".join(self.first) + ("; …" if self.count > len(self.first) else "")

    def settle(self, what: object, log: Log) -> None:
        """Log what is left out. Raises BadInput when that is more than was asked for."""
        if self.most is not None and self.count > self.most:
            skip = f", or leave up to N of them out with {self.key}=N (now {self.most})"
            raise BadInput(
                f"found {self.count} broken row(s) in {what}: {self.shown()}. Fix them"
                f"{skip if self.key else ''}"
            )
        if self.count:
            log(f"left out {self.count} broken row(s): {self.shown()}")


def usable(text: object, what: str) -> str:
    """`text`, when it is one that a model can read. Raises BadRow."""
    if not isinstance(text, str):
        raise BadRow(f"{what} is {_kind(text)}, wanted a text")
    if not text.strip():
        raise BadRow(f"{what} is blank")
    if "\0" in text:
        raise BadRow(f"{what} is not text: it holds a zero byte")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRow(
            f"{what} is not UTF-8; convert the file, or name its encoding (prep: encoding=cp1252)"
        ) from None
    return text


def _kind(value: object) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"
