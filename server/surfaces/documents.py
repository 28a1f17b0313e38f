"""What the rerank dialects share: documents as texts or objects, and the best of a ranking."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta

from runtime.text import Truncate
from server.errors import NotValid

Document = str | dict[str, Any]
Documents = Annotated[list[Document], Meta(extra_json_schema={"minItems": 1})]
TopN = Annotated[int, Meta(extra_json_schema={"minimum": 1})]
Truncation = Annotated[str, Meta(extra_json_schema={"enum": ["NONE", "END", "START"]})]

_TRUNCATES: tuple[Truncate, ...] = ("NONE", "END", "START")
_FIELD = ("text",)


def texts_of(documents: Sequence[Document], fields: Sequence[str] | None = None) -> list[str]:
    """The text of every document: itself, or its `fields` (`text`) in their order, a line each.

    Raises NotValid for an object without any of them, or with one that is no text.
    """
    names = dict.fromkeys(fields or _FIELD)  # a field named twice is still one text
    ranks = {name: rank for rank, name in enumerate(names)}
    # Fields other than `text` are the caller's own words, which answers do not repeat.
    which = "the field text" if tuple(names) == _FIELD else "one of the rank_fields"
    return [_text(found, index, ranks, which) for index, found in enumerate(documents)]


def _text(document: Document, index: int, ranks: Mapping[str, int], which: str) -> str:
    if isinstance(document, str):
        return document
    # Its own fields are walked, and not all that were named: a body may hold many of both.
    named = sorted((name for name in document if name in ranks), key=ranks.__getitem__)
    found = [document[name] for name in named]
    if not found:
        raise NotValid("missing", ("documents", index), f"wanted {which}")
    if not all(isinstance(value, str) for value in found):
        raise NotValid("type_error", ("documents", index), f"wanted a text as {which}")
    return "\n".join(found)


def best(order: Sequence[int], top_n: int | None) -> Sequence[int]:
    """The first `top_n` of `order`, all for None. Raises NotValid below 1."""
    check_top_n(top_n)
    return order[:top_n]


def check_top_n(top_n: int | None) -> None:
    """Raise NotValid for a `top_n` that asks for nothing."""
    if top_n is not None and top_n < 1:
        raise NotValid("greater_than", ("top_n",), "wanted 1 or more; leave it out for all")


def truncate_of(said: str | None, default: Truncate) -> Truncate:
    """How to cut long texts, by the field `truncate`."""
    if said is None:
        return default
    if said not in _TRUNCATES:
        raise NotValid("literal_error", ("truncate",), f"wanted one of {', '.join(_TRUNCATES)}")
    return said


def truncate_prompt(tokens: int | None, max_tokens: int, otherwise: Truncate) -> Truncate:
    """vLLM's `truncate_prompt_tokens`: -1 or the model's bound and more cut texts there, at the
    end unless the start was asked for."""
    if tokens is None:
        return otherwise
    if tokens == -1 or tokens >= max_tokens:
        return "START" if otherwise == "START" else "END"
    raise NotValid(
        "value_error",
        ("truncate_prompt_tokens",),
        f"this server cuts at {max_tokens} tokens only; send -1, or leave it out",
    )
