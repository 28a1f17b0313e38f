"""The tokens of a reply, as NIM, OpenAI, Jina and vLLM write them."""

import msgspec

from runtime.postprocess import Embeddings, Ranking


class Usage(msgspec.Struct):
    """Tokens of all texts or pairs, prefixes and special tokens included; a query counts once for
    each passage."""

    prompt_tokens: int
    total_tokens: int


def usage_of(answer: Ranking | Embeddings) -> Usage:
    """The tokens of an answer."""
    tokens = int(answer.token_counts.sum())
    return Usage(tokens, tokens)
