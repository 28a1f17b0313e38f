"""BERT: the body of many embedding models, and the ms-marco-MiniLM family of cross-encoders.

Parameter names are those of the checkpoints, so that a state dict loads as it is.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from exporter.architectures.attention import attend
from exporter.architectures.base import Body, CrossEncoder, Size
from exporter.architectures.config import Config
from exporter.architectures.pooling import Chosen, visible

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
}
# transformers' default of layer_norm_eps for BERT and the RoBERTas.
EPSILON = 1e-12


class Embeddings(nn.Module):
    """Words, absolute positions and token types, summed and normed."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = config.require("hidden_size")
        self.word_embeddings = nn.Embedding(config.require("vocab_size"), hidden)
        self.position_embeddings = nn.Embedding(config.require("max_position_embeddings"), hidden)
        self.token_type_embeddings = nn.Embedding(config.whole("type_vocab_size", 2), hidden)
        self.LayerNorm = layer_norm(config)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        words = self.word_embeddings(input_ids).float()
        types = self.token_type_embeddings(token_type_ids).float()
        return self.LayerNorm(words + types + self.position_embeddings(positions).float())


class SelfAttention(nn.Module):
    """The projections that the checkpoint calls `attention.self`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = config.require("hidden_size")
        self.heads = config.require("num_attention_heads")
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
        """`rows` [batch, rows, hidden] look at `x` [batch, sequence, hidden]."""
        dtype = self.query.weight.dtype
        rows, x = rows.to(dtype), x.to(dtype)
        return attend(self.query(rows), self.key(x), self.value(x), mask, self.heads)


class Output(nn.Module):
    """Projection, residual, norm; the residual stream stays float32."""

    def __init__(self, config: Config, inner: int, usual: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, config.require("hidden_size"))
        self.LayerNorm = layer_norm(config, usual)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x).float() + residual)


class AttentionBlock(nn.Module):
    """What the checkpoint calls `attention`: `self`, which has what is `beside` x and rows as
    well, and `output`."""

    def __init__(self, config: Config, attention: nn.Module, usual: float) -> None:
        super().__init__()
        self.self = attention
        self.output = Output(config, config.require("hidden_size"), usual)

    def forward(self, x: Tensor, rows: Tensor, *beside: Tensor) -> Tensor:
        return self.output(self.self(x, rows, *beside), rows)


class Intermediate(nn.Module):
    """The widening half of the feed-forward block."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.require("hidden_size"), config.require("intermediate_size"))
        self.activation = ACTIVATIONS[config.one_of("hidden_act", tuple(ACTIVATIONS), "gelu")]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x.to(self.dense.weight.dtype)))


class Layer(nn.Module):
    """One encoder layer with this `attention`, in which `rows` look at `x`, and norms whose `usual`
    epsilon is the family's. The residual stream stays float32 whatever the weights are."""

    def __init__(self, config: Config, attention: nn.Module, usual: float = EPSILON) -> None:
        super().__init__()
        self.attention = AttentionBlock(config, attention, usual)
        self.intermediate = Intermediate(config)
        self.output = Output(config, config.require("intermediate_size"), usual)

    def forward(self, x: Tensor, rows: Tensor, *beside: Tensor) -> Tensor:
        rows = self.attention(x, rows, *beside)
        return self.output(self.intermediate(rows), rows)


class Encoder(nn.Module):
    """The layers."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        count = config.require("num_hidden_layers")
        self.layer = nn.ModuleList(Layer(config, SelfAttention(config)) for _ in range(count))

    def forward(self, x: Tensor, mask: Tensor, chosen: Chosen | None = None) -> Tensor:
        for layer in self.layer[:-1]:
            x = layer(x, x, mask)
        rows, seen = (x, mask) if chosen is None else (chosen.of(x), chosen.seen)
        return self.layer[-1](x, rows, seen)


class Pooler(nn.Module):
    """The layer on the first token's state."""

    def __init__(self, config: Config, activation: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        hidden = config.require("hidden_size")
        self.dense = nn.Linear(hidden, hidden)
        self.activation = activation

    def forward(self, first: Tensor) -> Tensor:
        return self.activation(self.dense(first))


class BertBody(Body):
    """These layers on embeddings with absolute positions, which are the subclass's."""

    causal = False
    layer_prefix = "encoder.layer."
    words = "embeddings.word_embeddings.weight"
    widening = "encoder.layer.0.intermediate.dense.weight"
    unused = ("pooler.",)

    def __init__(self, config: Config, embeddings: nn.Module) -> None:
        super().__init__()
        config.one_of("position_embedding_type", ("absolute",), "absolute")
        config.refuse_unless("is_decoder", False)
        self.hidden = int(config.require("hidden_size"))
        self.types = config.whole("type_vocab_size", 2)
        self.position_limit = int(config.require("max_position_embeddings"))
        self.embeddings = embeddings
        self.encoder = Encoder(config)

    @classmethod
    def sizes(cls, config: Config) -> Iterator[Size]:
        """See Part."""
        yield from super().sizes(config)
        for what, table, default in (
            ("max_position_embeddings", "position", None),
            ("type_vocab_size", "token_type", 2),
        ):
            yield Size(what, config.whole(what, default), f"embeddings.{table}_embeddings.weight")
        config.head_size()


class Bert(BertBody):
    """input_ids, attention_mask, token_type_ids int64 [batch, sequence] → states."""

    inputs = ("input_ids", "attention_mask", "token_type_ids")
    prefix = "bert."

    def __init__(self, config: Config) -> None:
        super().__init__(config, Embeddings(config))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        chosen: Chosen | None = None,
    ) -> Tensor:
        embedded = self.embeddings(input_ids, token_type_ids)
        return self.encoder(embedded, visible(attention_mask), chosen)


class PooledBert(Bert):
    """A BERT with the pooler that its classifier reads, as cross-encoders are saved."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.pooler = Pooler(config)


class BertCrossEncoder(CrossEncoder):
    """input_ids, attention_mask, token_type_ids int64 [batch, sequence] → logits [batch, 1]."""

    trunk = PooledBert
    logit = "classifier.weight"

    def __init__(self, config: Config) -> None:
        super().__init__()
        config.refuse_unless("temperature", 1.0)
        self.pooling = config.one_of("pooling", ("cls",), "cls")
        self.bert = PooledBert(config)
        self.classifier = nn.Linear(self.bert.hidden, 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        first = self.bert.pooled(self.pooling, input_ids, attention_mask, token_type_ids)
        return self.classifier(self.bert.pooler(first))


def layer_norm(config: Config, usual: float = EPSILON) -> nn.LayerNorm:
    """A norm of states; `usual` is the family's epsilon."""
    return nn.LayerNorm(config.require("hidden_size"), eps=config.epsilon("layer_norm_eps", usual))
