"""ModernBERT: the body of gte-modernbert, and the gte-reranker-modernbert cross-encoders.

Layers that see all tokens alternate with layers that see a window of neighbours, each kind with
rotary angles of its own. Norms come first and most have no bias. Parameter names are those of the
checkpoints.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from exporter.architectures.attention import attend, cos_and_sin, frequencies, rotate
from exporter.architectures.base import Body, CrossEncoder, Size
from exporter.architectures.bert import ACTIVATIONS
from exporter.architectures.config import Config, shown, unlike_base
from exporter.architectures.pooling import Chosen, visible
from exporter.errors import CheckpointRefused

GLOBAL, LOCAL = "full_attention", "sliding_attention"
_THETA_KEYS = {GLOBAL: "global_rope_theta", LOCAL: "local_rope_theta"}
_THETAS = {GLOBAL: 160_000.0, LOCAL: 10_000.0}
_POOLINGS = {"cls": "cls", "mean": "avg"}


class Attention(nn.Module):
    """Self-attention with one projection for query, key and value, and rotary positions."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden, bias = config.require("hidden_size"), config.flag("attention_bias", False)
        self.heads = config.require("num_attention_heads")
        self.Wqkv = nn.Linear(hidden, 3 * hidden, bias=bias)
        self.Wo = nn.Linear(hidden, hidden, bias=bias)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, chosen: Chosen | None = None
    ) -> Tensor:
        """`x` [batch, sequence, hidden] in the weights' dtype; `cos`, `sin` float32. With `chosen`
        that token's row alone, [batch, 1, hidden]."""
        query, key, value = self.Wqkv(x).chunk(3, dim=-1)
        query, key = (rotate(part, cos, sin, self.heads) for part in (query, key))
        if chosen is not None:
            query = chosen.of(query)
        return self.Wo(attend(query, key, value, mask, self.heads))


class MLP(nn.Module):
    """The gated feed-forward block with one projection for value and gate."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden, inner = config.require("hidden_size"), config.require("intermediate_size")
        bias = config.flag("mlp_bias", False)
        self.Wi = nn.Linear(hidden, 2 * inner, bias=bias)
        self.Wo = nn.Linear(inner, hidden, bias=bias)
        self.activation = ACTIVATIONS[_activation(config, "hidden_activation")]

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.Wi(x).chunk(2, dim=-1)
        return self.Wo(self.activation(value) * gate)


class Layer(nn.Module):
    """One encoder layer. The residual stream stays float32 whatever the weights are."""

    def __init__(self, config: Config, *, first: bool) -> None:
        super().__init__()
        # The embeddings' own norm comes before the first layer.
        self.attn_norm = nn.Identity() if first else _norm(config)
        self.attn = Attention(config)
        self.mlp_norm = _norm(config)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, chosen: Chosen | None = None
    ) -> Tensor:
        dtype = self.mlp.Wi.weight.dtype
        attended = self.attn(self.attn_norm(x).to(dtype), cos, sin, mask, chosen)
        x = (x if chosen is None else chosen.of(x)) + attended.float()
        return x + self.mlp(self.mlp_norm(x).to(dtype)).float()


class Embeddings(nn.Module):
    """Words, normed."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = config.require("hidden_size")
        self.tok_embeddings = nn.Embedding(config.require("vocab_size"), hidden)
        self.norm = _norm(config)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.norm(self.tok_embeddings(input_ids).float())


class ModernBert(Body):
    """input_ids, attention_mask int64 [batch, sequence] → states, after the final norm."""

    inputs = ("input_ids", "attention_mask")
    causal = False
    prefix = "model."
    layer_prefix = "layers."
    words = "embeddings.tok_embeddings.weight"
    widening, widening_axis = "layers.0.mlp.Wo.weight", 1
    heads = ("head.", "decoder.")

    def __init__(self, config: Config) -> None:
        super().__init__()
        config.refuse_unless("is_decoder", False)
        self.hidden = int(config.require("hidden_size"))
        self.position_limit = int(config.require("max_position_embeddings"))
        self.kinds = layer_kinds(config)
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(
            Layer(config, first=index == 0) for index in range(len(self.kinds))
        )
        self.final_norm = _norm(config)
        self.reach = config.whole("local_attention", 128) // 2
        # Plain tensors, neither parameters nor buffers: no cast of the module can round them.
        self.frequencies = {kind: _frequencies(config, kind) for kind in sorted({*self.kinds})}

    @classmethod
    def sizes(cls, config: Config) -> Iterator[Size]:
        """See Part."""
        config.whole("max_position_embeddings")
        yield from super().sizes(config)
        if (size := config.head_size()) % 2:
            heads = f"num_attention_heads = {config['num_attention_heads']}"
            raise unlike_base(
                f"{heads}, which leaves {size} components to a head", "an even number"
            )

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, chosen: Chosen | None = None
    ) -> Tensor:
        batch, sequence = input_ids.shape
        positions = torch.arange(sequence, device=input_ids.device)
        near = (positions.unsqueeze(1) - positions.unsqueeze(0)).abs() <= self.reach
        all_real = visible(attention_mask)
        masks = {GLOBAL: all_real, LOCAL: all_real & near}
        angles = {
            kind: cos_and_sin(positions, angle, batch) for kind, angle in self.frequencies.items()
        }
        x = self.embeddings(input_ids)
        *first, last = self.layers
        *before, kind = self.kinds
        for layer, its in zip(first, before, strict=True):
            x = layer(x, *angles[its], masks[its])
        mask = masks[kind]
        if chosen is not None:
            near = (positions - chosen.index).abs() <= self.reach
            mask = chosen.seen & near[:, None, None, :] if kind == LOCAL else chosen.seen
        return self.final_norm(last(x, *angles[kind], mask, chosen))


class Head(nn.Module):
    """What the checkpoint calls `head`: a layer between pooling and logit."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = config.require("hidden_size")
        self.dense = nn.Linear(hidden, hidden, bias=config.flag("classifier_bias", False))
        self.activation = ACTIVATIONS[_activation(config, "classifier_activation")]
        self.norm = _norm(config)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(pooled)))


class ModernBertCrossEncoder(CrossEncoder):
    """input_ids, attention_mask int64 [batch, sequence] → logits float32 [batch, 1]."""

    trunk = ModernBert
    logit = "classifier.weight"

    def __init__(self, config: Config) -> None:
        super().__init__()
        config.refuse_unless("temperature", 1.0)
        self.pooling = _POOLINGS[config.one_of("classifier_pooling", tuple(_POOLINGS), "cls")]
        self.model = ModernBert(config)
        self.head = Head(config)
        self.classifier = nn.Linear(self.model.hidden, 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        pooled = self.model.pooled(self.pooling, input_ids, attention_mask)
        return self.classifier(self.head(pooled))


def layer_kinds(config: Config) -> list[str]:
    """GLOBAL or LOCAL for each layer, from either spelling.

    transformers 5 writes `layer_types`, version 4 `global_attn_every_n_layers`.
    """
    count = config.require("num_hidden_layers")
    kinds = config.get("layer_types")
    if kinds is None:
        every = config.whole("global_attn_every_n_layers", 3)
        return [LOCAL if index % every else GLOBAL for index in range(count)]
    if not isinstance(kinds, list):
        raise unlike_base(f"layer_types = {shown(kinds)}", "a list")
    if len(kinds) != count:
        raise CheckpointRefused(
            f"config.json has {len(kinds)} layer_types and num_hidden_layers = {count}; complete it"
        )
    return [
        Config({"layer_types": kind}).one_of("layer_types", (GLOBAL, LOCAL), GLOBAL)
        for kind in kinds
    ]


def _frequencies(config: Config, kind: str) -> Tensor:
    """Angles per position, float32 [head_size / 2], from either spelling of the rope settings.

    transformers 5 writes `rope_parameters` for each kind, version 4 two thetas.
    """
    config.refuse_unless("rope_scaling", {})
    kinds = config.settings("rope_parameters")
    rope = kinds.settings(kind)
    if kinds and kinds.get(kind) is None:
        raise CheckpointRefused(
            f"config.json has rope_parameters without {kind!r}, wanted those of each kind of layer"
        )
    rope.one_of("rope_type", ("default",), "default")
    rope.refuse_unless("partial_rotary_factor", 1.0)
    # Version 4 takes the global angles where the local ones are null.
    key, usual = _THETA_KEYS[kind], _THETAS[kind]
    if config.get(key, usual) is None:
        outer = config.number(_THETA_KEYS[GLOBAL])
    else:
        outer = config.number(key, usual)
    theta = rope.number("rope_theta", outer)
    config.refuse_unless(key, theta)
    return frequencies(theta, config.head_size())


def _activation(config: Config, key: str) -> str:
    return config.one_of(key, tuple(ACTIVATIONS), "gelu")


def _norm(config: Config) -> nn.LayerNorm:
    hidden, eps = config.require("hidden_size"), config.epsilon("norm_eps", 1e-5)
    return nn.LayerNorm(hidden, eps=eps, bias=config.flag("norm_bias", False))
