"""XLM-RoBERTa and RoBERTa: the bodies of bge-m3 and its kin, and the bge-reranker cross-encoders.

BERT's layers on embeddings that count positions from the padding id on and use one token type.
Parameter names are those of the checkpoints, so that a state dict loads as it is.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from exporter.architectures.base import Body, CrossEncoder, Size
from exporter.architectures.bert import Encoder, encoder_sizes
from exporter.architectures.config import epsilon, one_of, refuse_unless, require, whole
from exporter.architectures.pooling import Chosen, visible
from exporter.errors import CheckpointRefused


class Embeddings(nn.Module):
    """Words, counted positions and the one token type, summed and normed."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        hidden = require(config, "hidden_size")
        self.word_embeddings = nn.Embedding(require(config, "vocab_size"), hidden)
        self.position_embeddings = nn.Embedding(require(config, "max_position_embeddings"), hidden)
        self.token_type_embeddings = nn.Embedding(whole(config, "type_vocab_size", 2), hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=epsilon(config, "layer_norm_eps", 1e-12))
        self.padding_idx = _padding_idx(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """float32 [batch, sequence, hidden]."""
        words = self.word_embeddings(input_ids).float()
        places = self.position_embeddings(self.positions(input_ids, attention_mask)).float()
        # The tokenizers of this family give no type ids, so that every token is of the first type.
        return self.LayerNorm(words + self.token_type_embeddings.weight[0].float() + places)

    def positions(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 [batch, sequence]: tokens count from padding_idx + 1 on, whichever side is padded.

        A pad token in a text stays at padding_idx and is not counted, as in training.
        """
        counted = attention_mask * (input_ids != self.padding_idx)
        return counted.cumsum(dim=1) * counted + self.padding_idx


class Roberta(Body):
    """input_ids, attention_mask int64 [batch, sequence] → states."""

    inputs = ("input_ids", "attention_mask")
    causal = False
    prefix = "roberta."
    layer_prefix = "encoder.layer."
    unused = ("pooler.",)

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        one_of(config, "position_embedding_type", ("absolute",), "absolute")
        refuse_unless(config, "is_decoder", False)
        self.hidden = int(require(config, "hidden_size"))
        self.types = whole(config, "type_vocab_size", 2)
        # Rows up to padding_idx are not positions of tokens.
        self.position_limit = require(config, "max_position_embeddings") - _padding_idx(config) - 1
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)

    @classmethod
    def sizes(cls, config: Mapping[str, Any]) -> Iterator[Size]:
        """See Body."""
        yield from encoder_sizes(config)
        places = whole(config, "max_position_embeddings")
        if places <= _padding_idx(config) + 1:
            raise CheckpointRefused(
                f"config.json has max_position_embeddings = {places} and pad_token_id = "
                f"{_padding_idx(config)}, wanted places behind the padding's; compare it with the "
                "config.json of the base model"
            )

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, chosen: Chosen | None = None
    ) -> Tensor:
        embedded = self.embeddings(input_ids, attention_mask)
        return self.encoder(embedded, visible(attention_mask, causal=False), chosen)

    def halve(self, dtype: torch.dtype) -> None:
        """See Body."""
        self.embeddings.word_embeddings.to(dtype)
        for module in self.encoder.modules():
            if isinstance(module, nn.Linear):
                module.to(dtype)


class Head(nn.Module):
    """What the checkpoint calls `classifier`: a tanh layer and the logit."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        hidden = require(config, "hidden_size")
        self.dense = nn.Linear(hidden, hidden)
        self.out_proj = nn.Linear(hidden, 1)

    def forward(self, first: Tensor) -> Tensor:
        return self.out_proj(torch.tanh(self.dense(first)))


class RobertaCrossEncoder(CrossEncoder):
    """input_ids, attention_mask int64 [batch, sequence] → logits float32 [batch, 1]."""

    trunk = Roberta
    logit = "classifier.out_proj.weight"

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        refuse_unless(config, "temperature", 1.0)
        self.pooling = one_of(config, "pooling", ("cls",), "cls")
        self.roberta = Roberta(config)
        self.classifier = Head(config)

    @property
    def body(self) -> Body:
        """See Architecture."""
        return self.roberta

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.classifier(self.roberta.pooled(self.pooling, input_ids, attention_mask))

    def place(self, name: str) -> str | None:
        """See Architecture; older versions of transformers saved a pooler that nothing reads."""
        return None if name.startswith("roberta.pooler.") else name


def _padding_idx(config: Mapping[str, Any]) -> int:
    """The id whose embedding position is the padding's; the family's default is 1."""
    return whole(config, "pad_token_id", 1, least=0)
