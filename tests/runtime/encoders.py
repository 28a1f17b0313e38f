"""Encoders over real tokenizers made here."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models, processors

from runtime.engines.mock import byte_tokenizer
from runtime.errors import (
    DeadlineExceeded,
)
from runtime.requests import RankRequest
from runtime.text import (
    Encoding,
    PairEncoder,
    TextEncoder,
)

TEMPLATE = "question:{query} \n \n passage:{passage}"


PREFIXES = {"query": "query: ", "passage": "passage: "}


def encoder(max_tokens: int, template: str | None = TEMPLATE) -> PairEncoder:
    """One token per byte, so that what was cut can be read off."""
    return PairEncoder(byte_tokenizer(), template, max_tokens)


def many(pairs: Sequence[tuple[str, str]], **more: Any) -> RankRequest:
    """Pairs with a query each."""
    return RankRequest([query for query, _ in pairs], [text for _, text in pairs], **more)


class Watched(PairEncoder):
    """The same, which remembers what it tokenises."""

    def __init__(self, max_tokens: int) -> None:
        super().__init__(byte_tokenizer(), TEMPLATE, max_tokens)
        self.tokenized: list[tuple[str, list[str]]] = []

    def _encode_chunk(self, pairs: Sequence[tuple[str, str]]) -> list[Encoding]:
        self.tokenized.append((pairs[0][0], [passage for _, passage in pairs]))
        return super()._encode_chunk(pairs)


def text_encoder(max_tokens: int, prefixes: dict[str, str] = PREFIXES) -> TextEncoder:
    return TextEncoder(byte_tokenizer(), prefixes, max_tokens)


def with_bos(tokenizer: tokenizers.Tokenizer) -> int:
    """Let `tokenizer` put <s> before every sequence; the id of that token."""
    tokenizer.add_special_tokens(["<s>"])
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    return bos


def passed() -> None:
    raise DeadlineExceeded


def text_of(ids: np.ndarray) -> str:
    tokenizer = byte_tokenizer()
    return "".join(tokenizer.id_to_token(i) for i in ids).replace("Ġ", " ").replace("Ċ", "\n")


def bare_tokenizer() -> tokenizers.Tokenizer:
    """It knows three letters, makes nothing of all else, and adds nothing."""
    vocabulary = {"a": 0, "b": 1, "c": 2}
    return tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
