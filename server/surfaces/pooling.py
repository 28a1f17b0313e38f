"""The common fields of vLLM's rerank and score requests, by which a body is recognised as vLLM's.

As in vLLM's pooling entrypoints on 2026-11-28. Fields that change its template, padding or queue
are refused, not ignored, because ours differ.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from runtime.requests import TokenLimits, Truncate
from server.errors import InvalidRequest
from server.fields import merge_synonyms
from server.lax import Flag, Whole
from server.surfaces.truncation import PromptTokens, Side, prompt_cut

Salt = Annotated[str, Meta(min_length=1, max_length=1024)]
Padding = Annotated[str, Meta(extra_json_schema={"const": "do_not_pad"})]
# vLLM reads 0 as no limit.
Tokens = Annotated[Whole, Meta(extra_json_schema={"minimum": 0})]

_PRIORITIES = 2**63
# Some 1000 tokens, which stand in every pair's prompt.
_INSTRUCTION_CHARACTERS = 4096


class PoolingFields(msgspec.Struct, kw_only=True):
    """vLLM's fields. `max_tokens_per_query` and `max_tokens_per_doc` keep the first tokens of a
    text. `truncate_prompt_tokens` truncates the pair at `truncation_side`. `use_activation: false`
    (formerly `activation` and `softmax`) gives logits. `instruction` stands in the model's prompt
    instead of its default, if it has a place for one. `request_id` is the reply's id."""

    model: str | None = None
    truncate_prompt_tokens: PromptTokens | None = None
    truncation_side: Side | None = None
    max_tokens_per_query: Tokens | None = None
    max_tokens_per_doc: Tokens | None = None
    use_activation: Flag | None = None
    activation: Flag | None = None
    softmax: Flag | None = None
    request_id: str | None = None
    padding: Padding | None = None
    instruction: Annotated[str, Meta(max_length=_INSTRUCTION_CHARACTERS)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    # Without effect on the reply.
    user: str | None = None
    priority: Whole | None = None
    cache_salt: Salt | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    additional_data: Any = None


_OWN = tuple(name for name in PoolingFields.__struct_fields__ if name != "model")


def is_vllm(payload: PoolingFields) -> bool:
    """Whether the request has a field that only vLLM has."""
    return any(getattr(payload, name) is not None for name in _OWN)


def wants_logits(payload: PoolingFields, raw_scores: bool | None = None) -> bool:
    """Whether scores are logits, by vLLM's fields or Infinity's `raw_scores`. Raises InvalidRequest
    for contradicting fields."""
    activated = {
        name: getattr(payload, name) for name in ("use_activation", "activation", "softmax")
    }
    return (
        merge_synonyms({**activated, "raw_scores": None if raw_scores is None else not raw_scores})
        is False
    )


def cut_of(
    payload: PoolingFields,
    max_tokens: int,
    *,
    truncate: str | None = None,
    truncation: bool | None = None,
    default: Truncate = "NONE",
) -> tuple[Truncate, TokenLimits]:
    """How texts are truncated; the arguments are those of `prompt_cut`. Raises InvalidRequest for
    unsupported fields."""
    _refuse_others(payload)
    truncated, pair = prompt_cut(
        max_tokens,
        tokens=payload.truncate_prompt_tokens,
        side=payload.truncation_side,
        truncate=truncate,
        truncation=truncation,
        default=default,
    )
    limits = TokenLimits(
        query=_text_limit("max_tokens_per_query", payload.max_tokens_per_query, max_tokens),
        passage=_text_limit("max_tokens_per_doc", payload.max_tokens_per_doc, max_tokens),
        pair=pair,
    )
    return truncated, limits


def _refuse_others(payload: PoolingFields) -> None:
    if payload.chat_template_kwargs:
        message = "this model's template takes none; leave it out"
        raise InvalidRequest("value_error", ("chat_template_kwargs",), message)
    if payload.priority is not None and not -_PRIORITIES <= payload.priority < _PRIORITIES:
        raise InvalidRequest("value_error", ("priority",), "wanted a whole number of 64 bits")
    if payload.padding not in (None, "do_not_pad"):
        message = "texts are not padded here; leave it out, or send do_not_pad"
        raise InvalidRequest("literal_error", ("padding",), message)


def _text_limit(name: str, tokens: int | None, max_tokens: int) -> int | None:
    if tokens is not None and not 0 <= tokens < max_tokens:
        message = f"wanted less than {max_tokens}, which is all that the model takes, or 0 for all"
        raise InvalidRequest("value_error", (name,), message)
    return tokens or None
