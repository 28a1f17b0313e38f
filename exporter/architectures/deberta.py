"""DebertaV2ForSequenceClassification with one logit: DeBERTa v2 and v3, as in mxbai-rerank.

Attention adds to each pair of tokens what each says to the other's distance (content to position,
position to content). Parameter names are those of the checkpoints.
"""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from exporter.architectures.attention import join_heads, split_heads
from exporter.architectures.base import Body, CrossEncoder, Size
from exporter.architectures.bert import ACTIVATIONS, Layer, Pooler, layer_norm
from exporter.architectures.config import Config, shown, unlike_base
from exporter.architectures.pooling import Chosen, visible
from exporter.errors import CheckpointRefused

# A table of twice as many distances becomes part of the graph, whatever the size of the weights.
_MOST_POSITIONS = 1 << 17
# transformers' default of layer_norm_eps for this family.
_EPSILON = 1e-7
_ATTENTION_TYPES = ("c2p", "p2c")
# Content to content, content to position, position to content.
_TERMS = 1 + len(_ATTENTION_TYPES)


class Embeddings(nn.Module):
    """Words, with token types where the checkpoint has them, normed. Positions come later."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = config.require("hidden_size")
        self.word_embeddings = nn.Embedding(config.require("vocab_size"), hidden)
        types = config.whole("type_vocab_size", 0, least=0)
        self.token_type_embeddings = nn.Embedding(types, hidden) if types else None
        self.LayerNorm = layer_norm(config, _EPSILON)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        x = self.word_embeddings(input_ids).float()
        if self.token_type_embeddings is not None:
            x = x + self.token_type_embeddings(token_type_ids).float()
        return self.LayerNorm(x)


class SelfAttention(nn.Module):
    """What the checkpoint calls `attention.self`; distances share its query and key weights."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = config.require("hidden_size")
        self.heads = config.require("num_attention_heads")
        self.query_proj = nn.Linear(hidden, hidden)
        self.key_proj = nn.Linear(hidden, hidden)
        self.value_proj = nn.Linear(hidden, hidden)
        self.scale = 1 / math.sqrt(hidden // self.heads * _TERMS)

    def forward(
        self, x: Tensor, rows: Tensor, distances: Tensor, places: Tensor, mask: Tensor
    ) -> Tensor:
        """`rows` [batch, rows, hidden] look at `x` [batch, sequence, hidden].

        `distances` [distances, hidden] embeds distances; `places` int64 [batch, heads, rows,
        sequence] says which of them is the one from query to key; `mask` is added to scores."""
        dtype = self.query_proj.weight.dtype
        x, rows, distances = x.to(dtype), rows.to(dtype), distances.to(dtype).unsqueeze(0)
        # Queries are scaled instead of scores, which are far larger.
        split = partial(split_heads, heads=self.heads)
        query = split(self.query_proj(rows)) * self.scale
        key, value = split(self.key_proj(x)), split(self.value_proj(x))
        far_query = split(self.query_proj(distances)) * self.scale
        far_key = split(self.key_proj(distances))
        scores = query @ key.transpose(2, 3) + mask
        scores = scores + (query @ far_key.transpose(2, 3)).gather(3, places)
        scores = scores + (far_query @ key.transpose(2, 3)).gather(2, places)
        return join_heads(scores.softmax(3) @ value)


class Encoder(nn.Module):
    """The layers and the embeddings of distances that they share."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            Layer(config, SelfAttention(config), _EPSILON)
            for _ in range(config.require("num_hidden_layers"))
        )
        self.rel_embeddings = nn.Embedding(2 * _span(config)[1], config.require("hidden_size"))
        self.LayerNorm = layer_norm(config, _EPSILON)
        # A plain tensor: data, not weights. Looked up, as a logarithm computed by an engine may
        # fall on the other side of a bucket's edge.
        self.places = distance_places(config)
        self.longest = config.require("max_position_embeddings")
        self.heads = config.require("num_attention_heads")

    def forward(self, x: Tensor, mask: Tensor, chosen: Chosen | None = None) -> Tensor:
        distances = self.LayerNorm(self.rel_embeddings.weight)
        positions = torch.arange(x.shape[1], device=x.device)
        places = self._places(positions.unsqueeze(1) - positions.unsqueeze(0))
        places, hidden = places.expand(x.shape[0], self.heads, -1, -1), self._hidden(mask)
        for layer in self.layer[:-1]:
            x = layer(x, x, distances, places, hidden)
        rows = x
        if chosen is not None:
            places = self._places(chosen.index - positions)[:, None, None, :]
            places = places.expand(-1, self.heads, -1, -1)
            rows, hidden = chosen.of(x), self._hidden(chosen.seen)
        return self.layer[-1](x, rows, distances, places, hidden)

    def _places(self, apart: Tensor) -> Tensor:
        """Rows of the embeddings of distances, for distances `apart` in tokens."""
        return self.places[apart + self.longest - 1]

    def _hidden(self, mask: Tensor) -> Tensor:
        """The bias of scores: 0 where `mask` is true."""
        dtype = self.get_parameter("layer.0.attention.self.query_proj.weight").dtype
        return torch.zeros((), dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


class Deberta(Body):
    """input_ids, attention_mask and, where the checkpoint has token types, token_type_ids int64
    [batch, sequence] → states."""

    causal = False
    prefix = "deberta."
    layer_prefix = "encoder.layer."
    words = "embeddings.word_embeddings.weight"
    widening = "encoder.layer.0.intermediate.dense.weight"

    def __init__(self, config: Config) -> None:
        super().__init__()
        _refuse_variants(config)
        self.hidden = int(config.require("hidden_size"))
        self.position_limit = int(config.require("max_position_embeddings"))
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.types = config.whole("type_vocab_size", 0, least=0)
        self.inputs = ("input_ids", "attention_mask", *(("token_type_ids",) if self.types else ()))

    @classmethod
    def sizes(cls, config: Config) -> Iterator[Size]:
        """See Part."""
        yield from super().sizes(config)
        if types := config.whole("type_vocab_size", 0, least=0):
            yield Size("type_vocab_size", types, "embeddings.token_type_embeddings.weight")
        config.head_size()
        longest = config.whole("max_position_embeddings")
        if longest > _MOST_POSITIONS:
            found = f"max_position_embeddings = {longest}"
            raise unlike_base(found, f"{_MOST_POSITIONS} at most")
        key, span = _span(config)
        rows = f"position_buckets = {_buckets(config)} and 2 × {key}"
        yield Size(rows, 2 * span, "encoder.rel_embeddings.weight")

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        chosen: Chosen | None = None,
    ) -> Tensor:
        embedded = self.embeddings(input_ids, token_type_ids)
        return self.encoder(embedded, visible(attention_mask), chosen)


class DebertaCrossEncoder(CrossEncoder):
    """The inputs of Deberta → logits float32 [batch, 1]."""

    trunk = Deberta
    logit = "classifier.weight"

    def __init__(self, config: Config) -> None:
        super().__init__()
        config.refuse_unless("temperature", 1.0)
        self.pooling = config.one_of("pooling", ("cls",), "cls")
        self.deberta = Deberta(config)
        activation = config.one_of("pooler_hidden_act", tuple(ACTIVATIONS), "gelu")
        self.pooler = Pooler(config, ACTIVATIONS[activation])
        self.classifier = nn.Linear(self.deberta.hidden, 1)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        types = () if token_type_ids is None else (token_type_ids,)
        first = self.deberta.pooled(self.pooling, input_ids, attention_mask, *types)
        return self.classifier(self.pooler(first))

    def place(self, name: str) -> str | None:
        """See Architecture; absolute positions were trained elsewhere and are not read here."""
        return None if name == "deberta.embeddings.position_embeddings.weight" else name


def distance_places(config: Config) -> Tensor:
    """Rows of the distance embeddings, int64 [2 × longest - 1], for distances from
    -(longest - 1) to longest - 1.

    Half of the buckets are one distance each, the others grow with the logarithm.
    """
    longest, (_, span) = config.require("max_position_embeddings"), _span(config)
    # On the CPU even while the module is built on the meta device.
    apart = torch.arange(1 - longest, longest, device="cpu")
    if (buckets := _buckets(config)) > 0:
        middle = buckets // 2
        # All in float32, as in training: a logarithm rounded otherwise changes buckets.
        reach = torch.log(torch.tensor((_reach(config)[1] - 1) / middle, device="cpu"))
        far = torch.log(apart.abs().clamp(min=middle) / middle) / reach
        far = torch.ceil(far * (middle - 1)) + middle
        apart = torch.where(apart.abs() <= middle, apart, (far * apart.sign()).long())
    return (apart + span).clamp(0, 2 * span - 1)


def _span(config: Config) -> tuple[str, int]:
    """The key of how many embeddings there are for distances in one direction, and the number."""
    buckets = _buckets(config)
    return ("position_buckets", buckets) if buckets > 0 else _reach(config)


def _buckets(config: Config) -> int:
    """How many buckets distances in one direction fall into, not above 0 for one each."""
    buckets = config.whole("position_buckets", -1, least=-1)
    key, reach = _reach(config)
    if buckets == 1 or (buckets > 0 and reach - 1 <= buckets // 2):
        raise unlike_base(
            f"position_buckets = {buckets} for {key} = {reach}",
            "at least 2, and distances that do not fit into half of them",
        )
    return buckets


def _reach(config: Config) -> tuple[str, int]:
    """The key of the largest distance that has a bucket of its own, and the distance."""
    explicit = config.whole("max_relative_positions", -1, least=-1) > 0
    key = "max_relative_positions" if explicit else "max_position_embeddings"
    return key, config.whole(key)


def _refuse_variants(config: Config) -> None:
    # Absent keys mean transformers' defaults, which often are not implemented here.
    for key, absent, wanted in (
        ("relative_attention", False, True),
        ("position_biased_input", True, False),
        ("share_att_key", False, True),
        ("norm_rel_ebd", "none", "layer_norm"),
    ):
        found = config.get(key)
        Config({key: absent if found is None else found}).refuse_unless(key, wanted)
    config.refuse_unless("conv_kernel_size", 0)
    for key in ("embedding_size", "pooler_hidden_size"):
        config.refuse_unless(key, config.require("hidden_size"))
    config.refuse_unless("attention_head_size", config.head_size())
    config.refuse_unless("is_decoder", False)
    kinds = config.get("pos_att_type") or []
    found = kinds.split("|") if isinstance(kinds, str) else kinds
    names = [str(kind).strip().lower() for kind in found] if isinstance(found, list) else []
    if sorted(names) != sorted(_ATTENTION_TYPES):
        raise CheckpointRefused(
            f"config.json has pos_att_type = {shown(kinds)}, wanted both of "
            f"{' and '.join(_ATTENTION_TYPES)}: the exporter does not implement one alone"
        )
