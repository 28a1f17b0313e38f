"""A request's body."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from rerank_client.errors import RerankError


@dataclass(frozen=True)
class Question:
    """The arguments of a ranking: query, documents and top_n."""

    query: str
    documents: Sequence[str]
    top_n: int | None


def question(query: str, documents: Iterable[str], top_n: int | None) -> Question:
    """Check the arguments. Raises TypeError or ValueError: mistakes of the calling code."""
    if not isinstance(query, str):
        raise TypeError(f"query is a {type(query).__name__}, wanted a str")
    if isinstance(documents, (str, bytes)):
        raise TypeError(f"documents is one {type(documents).__name__}, wanted a list of str")
    texts = list(documents)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"documents[{index}] is a {type(text).__name__}, wanted a str")
    top_n = None if top_n is None else operator.index(top_n)
    if top_n is not None and top_n < 1:
        raise ValueError(f"top_n is {top_n}, wanted at least 1 (or None for all)")
    # Plain strings: msgspec cannot encode subclasses (of numpy, of enum).
    return Question(str.__str__(query), [str.__str__(text) for text in texts], top_n)


def encode(asked: Question) -> bytes:
    """The JSON body. Raises RerankError for text that is not Unicode (a lone surrogate)."""
    fields: dict[str, object] = {"query": asked.query, "documents": asked.documents}
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
    for index, text in enumerate(asked.documents):
        if not _is_unicode(text):
            return f"documents[{index}]"
    return "a text of the surface"


def _is_unicode(text: str) -> bool:
    return text.encode(errors="ignore").decode() == text
