"""A request's body."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from rerank_client.errors import RerankError
from rerank_client.passage import Illustrated, Passage, checked

Document: TypeAlias = "str | Passage"


@dataclass(frozen=True)
class Question:
    """The arguments of a ranking: query, documents and top_n."""

    query: str
    documents: Sequence[str | Illustrated]
    top_n: int | None

    @property
    def texts(self) -> list[str]:
        """The documents' texts, of an image alone an empty one."""
        return [one if isinstance(one, str) else one.text for one in self.documents]

    @property
    def text_bytes(self) -> int:
        """The bytes of all texts in UTF-8."""
        return sum(len(text.encode()) for text in (self.query, *self.texts))

    @property
    def has_images(self) -> bool:
        """Whether encoding it takes long: files are read, and pictures are written as files."""
        return not all(isinstance(one, str) for one in self.documents)

    def sendable_documents(self) -> list[str | dict[str, str]]:
        """The documents as a request contains them. Raises RerankError for an image that cannot be
        read, and for what is none."""
        return [
            one if isinstance(one, str) else one.sendable(f"documents[{index}]")
            for index, one in enumerate(self.documents)
        ]


def question(query: str, documents: Iterable[Document], top_n: int | None) -> Question:
    """Check the arguments. Raises TypeError or ValueError: mistakes of the calling code."""
    if not isinstance(query, str):
        raise TypeError(f"query is a {type(query).__name__}, wanted a str")
    if isinstance(documents, (str, bytes, Mapping)):
        raise TypeError(f"documents is one {type(documents).__name__}, wanted a list of str")
    found = [_document(one, f"documents[{index}]") for index, one in enumerate(documents)]
    top_n = None if top_n is None else operator.index(top_n)
    if top_n is not None and top_n < 1:
        raise ValueError(f"top_n is {top_n}, wanted at least 1 (or None for all)")
    return Question(str.__str__(query), found, top_n)


def _document(given: object, place: str) -> str | Illustrated:
    if isinstance(given, str):
        # A plain string: msgspec cannot encode subclasses (of numpy, of enum).
        return str.__str__(given)
    if isinstance(given, Mapping):
        return checked(given, place)
    raise TypeError(
        f"{place} is a {type(given).__name__}, wanted a str, or a dict of text and image"
    )


def encode(asked: Question) -> bytes:
    """The JSON body. Raises RerankError for text that is not Unicode (a lone surrogate), and for
    images as `Question.sendable_documents` does."""
    fields: dict[str, object] = {"query": asked.query, "documents": asked.sendable_documents()}
    # The caller has the documents; echoing them would double the traffic.
    fields["return_documents"] = False
    if asked.top_n is not None:
        fields["top_n"] = min(asked.top_n, len(asked.documents))
    return encode_fields(asked, fields)


def encode_fields(asked: Question, fields: dict[str, object]) -> bytes:
    """`fields`, which contain the texts of `asked`, as JSON. Raises like `encode`."""
    try:
        return msgspec.json.encode(fields)
    except UnicodeEncodeError as error:
        raise RerankError(f"{_invalid_text(asked)} is not valid Unicode: {error.reason}") from error


def _invalid_text(asked: Question) -> str:
    if not _is_unicode(asked.query):
        return "query"
    for index, text in enumerate(asked.texts):
        if not _is_unicode(text):
            return f"documents[{index}]"
    return "a text of the surface"


def _is_unicode(text: str) -> bool:
    return text.encode(errors="ignore").decode() == text
