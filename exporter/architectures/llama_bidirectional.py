"""A Llama that reads both ways: the body of llama-nemotron's rerankers and embedders.

The family of model_type `llama_bidirec`. Parameter names are those of
the checkpoints, so that a state dict loads as it is.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from exporter.architectures.attention import attend, cos_and_sin, frequencies, rotate
from exporter.architectures.base import Body, CrossEncoder, Size
from exporter.architectures.config import Config, shown, unlike_base
from exporter.architectures.pooling import POOLINGS, Chosen, visible
from exporter.errors import CheckpointRefused


class Attention(nn.Module):
    """Grouped-query attention: `heads` query heads share `kv_heads` key and value heads."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden, size = config.require("hidden_size"), _head_size(config)
        self.heads = config.require("num_attention_heads")
        self.kv_heads = config.whole("num_key_value_heads", self.heads)
        bias = config.flag("attention_bias", False)
        self.q_proj = nn.Linear(hidden, self.heads * size, bias=bias)
        self.k_proj = nn.Linear(hidden, self.kv_heads * size, bias=bias)
        self.v_proj = nn.Linear(hidden, self.kv_heads * size, bias=bias)
        self.o_proj = nn.Linear(self.heads * size, hidden, bias=bias)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, chosen: Chosen | None = None
    ) -> Tensor:
        """`x` [batch, sequence, hidden] in the weights' dtype; `cos`, `sin` float32. With `chosen`
        that token's row alone, [batch, 1, hidden]."""
        if chosen is None:
            query = rotate(self.q_proj(x), cos, sin, self.heads)
        else:
            angles = chosen.of(cos), chosen.of(sin)
            query = rotate(self.q_proj(chosen.of(x)), *angles, self.heads)
        key = rotate(self.k_proj(x), cos, sin, self.kv_heads)
        found = attend(query, key, self.v_proj(x), mask, self.heads, self.kv_heads)
        return self.o_proj(found)


class MLP(nn.Module):
    """The gated feed-forward block with SiLU."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden, inner = config.require("hidden_size"), config.require("intermediate_size")
        bias = config.flag("mlp_bias", False)
        self.gate_proj = nn.Linear(hidden, inner, bias=bias)
        self.up_proj = nn.Linear(hidden, inner, bias=bias)
        self.down_proj = nn.Linear(inner, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One decoder layer. The residual stream stays float32 whatever the weights are."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = _norm(config)
        self.post_attention_layernorm = _norm(config)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, chosen: Chosen | None = None
    ) -> Tensor:
        dtype = self.mlp.up_proj.weight.dtype
        attended = self.self_attn(self.input_layernorm(x).to(dtype), cos, sin, mask, chosen)
        x = (x if chosen is None else chosen.of(x)) + attended.float()
        return x + self.mlp(self.post_attention_layernorm(x).to(dtype)).float()


class BidirectionalLlama(Body):
    """input_ids, attention_mask int64 [batch, sequence] → states."""

    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    prefix = "model."
    layer_prefix = "layers."
    words = "embed_tokens.weight"
    widening = "layers.0.mlp.up_proj.weight"
    pools = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        config.one_of("hidden_act", ("silu",), "silu")
        config.refuse_unless("partial_rotary_factor", 1.0)
        for key in ("sliding_window", "use_sliding_window"):
            config.refuse_unless(key, False)
        self.causal = _reads_one_way(config)
        self.hidden = int(config.require("hidden_size"))
        self.position_limit = _positions(config)
        self.embed_tokens = nn.Embedding(config.require("vocab_size"), self.hidden)
        self.layers = nn.ModuleList(
            Layer(config) for _ in range(config.require("num_hidden_layers"))
        )
        self.norm = _norm(config)
        # A plain tensor, neither parameter nor buffer: no cast of the module can round it.
        self.frequencies = rotary_frequencies(config)

    @classmethod
    def sizes(cls, config: Config) -> Iterator[Size]:
        """See Part."""
        _positions(config)
        yield from super().sizes(config)
        attention = "layers.0.self_attn.{}_proj.weight"
        heads, size = config.whole("num_attention_heads"), _head_size(config)
        kv_heads = config.whole("num_key_value_heads", heads)
        yield Size("num_attention_heads × head_dim", heads * size, attention.format("q"))
        yield Size("num_key_value_heads × head_dim", kv_heads * size, attention.format("k"))
        if heads % kv_heads or size % 2:
            raise unlike_base(
                f"num_attention_heads = {heads}, num_key_value_heads = {kv_heads} and head_dim = "
                f"{size}",
                "the second to divide the first, and an even head_dim",
            )

    def embedded(self, input_ids: Tensor, *_: Tensor) -> Tensor:
        """Input embeddings of the first layer, float32 [batch, sequence, hidden]. Multimodal models
        take more inputs, and put their own embeddings among those of the tokens."""
        return self.embed_tokens(input_ids).float()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *more: Tensor,
        chosen: Chosen | None = None,
    ) -> Tensor:
        batch, sequence = input_ids.shape
        # Integers, as TensorRT takes sizes from shapes.
        positions = torch.arange(sequence, device=input_ids.device)
        cos, sin = cos_and_sin(positions, self.frequencies, batch)
        mask = visible(attention_mask, causal=self.causal)
        x = self.embedded(input_ids, *more)
        *first, last = self.layers
        for layer in first:
            x = layer(x, cos, sin, mask)
        seen = mask if chosen is None else chosen.seen
        return self.norm(last(x, cos, sin, seen, chosen))


class LlamaCrossEncoder(CrossEncoder):
    """input_ids, attention_mask int64 [batch, sequence] → logits float32 [batch, 1]."""

    trunk = BidirectionalLlama
    logit = "score.weight"

    templated = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.pooling = config.one_of("pooling", POOLINGS, "avg")
        self.temperature = config.number("temperature", 1.0)
        self.model = BidirectionalLlama(config)
        self.score = nn.Linear(self.model.hidden, 1, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        pooled = self.model.pooled(self.pooling, input_ids, attention_mask)
        return self.score(pooled) / self.temperature


def rotary_frequencies(config: Config) -> Tensor:
    """Angles per position, float32 [head_size / 2], from either spelling of the rope settings.

    transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5 `rope_parameters`.
    Rope types `default` and `llama3` are known; others are refused by name.
    """
    rope = config.settings("rope_parameters") or config.settings("rope_scaling")
    _refuse_contradictions(config, rope)
    theta = rope.number("rope_theta", config.number("rope_theta", 10000.0))
    named = "type" if rope.get("rope_type") is None else "rope_type"
    kind = Config({"rope_type": rope.get(named)}).one_of(
        "rope_type", ("default", "llama3"), "default"
    )
    rope.refuse_unless("partial_rotary_factor", 1.0)
    plain = frequencies(theta, _head_size(config))
    return plain if kind == "default" else _llama3_scaled(plain, rope)


def _refuse_contradictions(config: Config, rope: Config) -> None:
    """Versions of transformers resolve such contradictions differently, so they are refused."""
    outer = {**config.settings("rope_scaling")}
    for key in ("rope_theta", "original_max_position_embeddings"):
        outer.setdefault(key, config.get(key))
    for key, found in outer.items():
        if found is not None and rope.get(key) is not None and rope[key] != found:
            raise CheckpointRefused(
                f"config.json says both {shown(found)} and {shown(rope[key])} for {key}; keep the "
                "one that the model was trained with"
            )


def _llama3_scaled(plain: Tensor, rope: Config) -> Tensor:
    """Llama 3.1's scaling: long waves slowed by `factor`, short ones kept, a ramp between."""
    factor, original = rope.number("factor"), rope.number("original_max_position_embeddings")
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if low >= high:
        found = f"low_freq_factor = {low} and high_freq_factor = {high}"
        raise unlike_base(found, "the first below the second")
    wavelength = 2 * math.pi / plain
    ramp = (original / wavelength - low) / (high - low)
    mixed = (1 - ramp) * plain / factor + ramp * plain
    scaled = torch.where(wavelength > original / low, plain / factor, mixed)
    return torch.where(wavelength < original / high, plain, scaled)


def _norm(config: Config) -> nn.RMSNorm:
    return nn.RMSNorm(config.require("hidden_size"), config.epsilon("rms_norm_eps", 1e-6))


def _head_size(config: Config) -> int:
    heads = config.whole("num_attention_heads")
    return config.whole("head_dim", config.whole("hidden_size") // heads)


def _positions(config: Config) -> int:
    """The limit of positions: no weight confirms it, and null is refused, as in transformers."""
    key = "max_position_embeddings"
    return config.whole(key) if key in config else 2048


def _reads_one_way(config: Config) -> bool:
    """Whether the config asks for a causal model; the family's default is both ways."""
    causal, both_ways = (
        None if config.get(key) is None else config.flag(key, False)
        for key in ("is_causal", "use_bidirectional_attention")
    )
    if causal is not None and causal == both_ways:
        raise CheckpointRefused(
            f"config.json has is_causal = {causal} and use_bidirectional_attention = {both_ways}, "
            "which contradict each other; keep the one that the model was trained with"
        )
    return causal if causal is not None else both_ways is False
