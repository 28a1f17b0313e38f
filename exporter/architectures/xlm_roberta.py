"""XLM-RoBERTa and RoBERTa: the bodies of bge-m3 and its kin, and the bge-reranker cross-encoders.

BERT's layers on embeddings that count positions from the padding id on and use one token type.
Parameter names are those of the checkpoints, so that a state dict loads as it is.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from exporter.architectures import bert
from exporter.architectures.base import CrossEncoder, Size
from exporter.architectures.config import Config, unlike_base
from exporter.architectures.pooling import Chosen, visible


class Embeddings(bert.Embeddings):
    """Words, counted positions and the one token type, summed and normed."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
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


class Roberta(bert.BertBody):
    """input_ids, attention_mask int64 [batch, sequence] → states."""

    inputs = ("input_ids", "attention_mask")
    prefix = "roberta."

    def __init__(self, config: Config) -> None:
        super().__init__(config, Embeddings(config))
        # Rows up to padding_idx are not positions of tokens.
        self.position_limit -= _padding_idx(config) + 1

    @classmethod
    def sizes(cls, config: Config) -> Iterator[Size]:
        """See Part."""
        yield from super().sizes(config)
        places = config.whole("max_position_embeddings")
        if places <= _padding_idx(config) + 1:
            found = f"max_position_embeddings = {places} and pad_token_id = {_padding_idx(config)}"
            raise unlike_base(found, "places behind the padding's")

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, chosen: Chosen | None = None
    ) -> Tensor:
        embedded = self.embeddings(input_ids, attention_mask)
        return self.encoder(embedded, visible(attention_mask), chosen)


class Head(bert.Pooler):
    """What the checkpoint calls `classifier`: a tanh layer and the logit."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.out_proj = nn.Linear(config.require("hidden_size"), 1)

    def forward(self, first: Tensor) -> Tensor:
        return self.out_proj(super().forward(first))


class RobertaCrossEncoder(CrossEncoder):
    """input_ids, attention_mask int64 [batch, sequence] → logits float32 [batch, 1]."""

    trunk = Roberta
    logit = "classifier.out_proj.weight"

    def __init__(self, config: Config) -> None:
        super().__init__()
        config.refuse_unless("temperature", 1.0)
        self.pooling = config.one_of("pooling", ("cls",), "cls")
        self.roberta = Roberta(config)
        self.classifier = Head(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.classifier(self.roberta.pooled(self.pooling, input_ids, attention_mask))

    def place(self, name: str) -> str | None:
        """See Architecture; older versions of transformers saved a pooler that nothing reads."""
        return None if name.startswith("roberta.pooler.") else name


def _padding_idx(config: Config) -> int:
    """The id whose embedding position is the padding's; the family's default is 1."""
    return config.whole("pad_token_id", 1, least=0)
