"""Truncation fields of the dialects that share a path: `truncate` (NIM, and a flag of Jina's
embeddings), `truncation` (a flag of Jina's rerankers and Voyage), `truncate_prompt_tokens` and
`truncation_side` (vLLM).
"""

from typing import Annotated, get_args

from msgspec import Meta

from runtime.requests import Truncate
from server.errors import InvalidRequest
from server.fields import merge_synonyms, one_of
from server.lax import Whole

TRUNCATES: tuple[Truncate, ...] = get_args(Truncate)
Truncation = Annotated[str, Meta(extra_json_schema={"enum": list(TRUNCATES)})]
Side = Annotated[str, Meta(extra_json_schema={"enum": ["left", "right"]})]
PromptTokens = Annotated[Whole, Meta(extra_json_schema={"minimum": -1})]

_SIDES: dict[str, Truncate] = {"left": "START", "right": "END"}


def prompt_cut(
    max_tokens: int,
    *,
    tokens: int | None,
    side: str | None,
    truncate: str | bool | None = None,
    truncation: bool | None = None,
    default: Truncate = "NONE",
) -> tuple[Truncate, int | None]:
    """The truncation of a prompt and its limit of tokens, for a model of `max_tokens`. `tokens` and
    `side` are vLLM's fields. Without any field the truncation is `default`. Raises InvalidRequest,
    also for contradicting fields."""
    direction = one_of(truncate, TRUNCATES, "truncate") if isinstance(truncate, str) else None
    if side is not None and side not in _SIDES:
        raise InvalidRequest("literal_error", ("truncation_side",), "wanted left or right")
    flag = direction != "NONE" if isinstance(truncate, str) else truncate
    cuts = merge_synonyms({"truncate": flag, "truncation": truncation})
    limit = _prompt_limit(tokens, max_tokens)
    if limit is None and not (default != "NONE" if cuts is None else cuts):
        return "NONE", None
    ends = {
        "truncate": None if direction == "NONE" else direction,
        "truncation_side": _SIDES.get(side or ""),
    }
    return merge_synonyms(ends) or "END", limit


def _prompt_limit(tokens: int | None, max_tokens: int) -> int | None:
    if tokens is None:
        return None
    if tokens == -1:
        return max_tokens
    if not 1 <= tokens <= max_tokens:
        message = f"wanted 1 to {max_tokens}, which is all that the model takes, or -1 for that"
        raise InvalidRequest("value_error", ("truncate_prompt_tokens",), message)
    return tokens
