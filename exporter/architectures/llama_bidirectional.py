"""A Llama that reads both ways: the body of llama-nemotron's rerankers and embedders.

The family of model_type `llama_bidirec`. Parameter names are those of
the checkpoints, so that a state dict loads as it is.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from exporter.architectures.base import Body, CrossEncoder, Size
from exporter.architectures.config import (
    epsilon,
    flag,
    number,
    one_of,
    refuse_unless,
    require,
    settings,
    shown,
    whole,
)
from exporter.architectures.pooling import POOLINGS, Chosen, visible
from exporter.errors import CheckpointRefused


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis; float32 in, float32 out."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention: `heads` query heads share `kv_heads` key and value heads."""

    def __init__(self, hidden: int, heads: int, kv_heads: int, head_size: int, bias: bool) -> None:
        super().__init__()
        self.q_proj = nn.Linear(hidden, heads * head_size, bias=bias)
        self.k_proj = nn.Linear(hidden, kv_heads * head_size, bias=bias)
        self.v_proj = nn.Linear(hidden, kv_heads * head_size, bias=bias)
        self.o_proj = nn.Linear(heads * head_size, hidden, bias=bias)
        self.heads, self.kv_heads, self.head_size = heads, kv_heads, head_size

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, chosen: Chosen | None = None
    ) -> Tensor:
        """`x` [batch, sequence, hidden] in the weights' dtype; `cos`, `sin` float32. With `chosen`
        that token's row alone, [batch, 1, hidden]."""
        if chosen is None:
            query = _rotate(self.q_proj(x), cos, sin, self.heads)
        else:
            angles = chosen.of(cos), chosen.of(sin)
            query = _rotate(self.q_proj(chosen.of(x)), *angles, self.heads)
        query = self._split(query, self.heads)
        key = self._split(_rotate(self.k_proj(x), cos, sin, self.kv_heads), self.kv_heads)
        value = self._split(self.v_proj(x), self.kv_heads)
        found = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, enable_gqa=self.heads != self.kv_heads
        )
        return self.o_proj(found.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(2, (heads, self.head_size)).transpose(1, 2)


class MLP(nn.Module):
    """The gated feed-forward block with SiLU."""

    def __init__(self, hidden: int, inner: int, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=bias)
        self.up_proj = nn.Linear(hidden, inner, bias=bias)
        self.down_proj = nn.Linear(inner, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One decoder layer. The residual stream stays float32 whatever the weights are."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, heads = require(config, "hidden_size"), require(config, "num_attention_heads")
        eps = epsilon(config, "rms_norm_eps", 1e-6)
        self.self_attn = Attention(
            hidden,
            heads,
            whole(config, "num_key_value_heads", heads),
            _head_size(config),
            flag(config, "attention_bias", False),
        )
        inner = require(config, "intermediate_size")
        self.mlp = MLP(hidden, inner, flag(config, "mlp_bias", False))
        self.input_layernorm = RMSNorm(hidden, eps)
        self.post_attention_layernorm = RMSNorm(hidden, eps)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, chosen: Chosen | None = None
    ) -> Tensor:
        dtype = self.mlp.up_proj.weight.dtype
        attended = self.self_attn(self.input_layernorm(x).to(dtype), cos, sin, mask, chosen)
        x = (x if chosen is None else chosen.of(x)) + attended.float()
        return x + self.mlp(self.post_attention_layernorm(x).to(dtype)).float()


class BidirectionalLlama(Body):
    """input_ids, attention_mask int64 [batch, sequence] → states."""

    inputs = ("input_ids", "attention_mask")
    prefix = "model."
    layer_prefix = "layers."
    pools = True

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        one_of(config, "hidden_act", ("silu",), "silu")
        refuse_unless(config, "partial_rotary_factor", 1.0)
        for key in ("sliding_window", "use_sliding_window"):
            refuse_unless(config, key, False)
        self.causal = _reads_one_way(config)
        self.hidden = int(require(config, "hidden_size"))
        self.position_limit = _positions(config)
        self.embed_tokens = nn.Embedding(require(config, "vocab_size"), self.hidden)
        self.layers = nn.ModuleList(
            Layer(config) for _ in range(require(config, "num_hidden_layers"))
        )
        self.norm = RMSNorm(self.hidden, epsilon(config, "rms_norm_eps", 1e-6))
        # A plain tensor, neither parameter nor buffer: no cast of the module can round it.
        self.frequencies = rotary_frequencies(config)

    @classmethod
    def sizes(cls, config: Mapping[str, Any]) -> Iterator[Size]:
        """See Body."""
        _positions(config)
        words, attention = "embed_tokens.weight", "layers.0.self_attn.{}_proj.weight"
        yield Size("vocab_size", whole(config, "vocab_size"), words)
        yield Size("hidden_size", whole(config, "hidden_size"), words, axis=1)
        inner = whole(config, "intermediate_size")
        yield Size("intermediate_size", inner, "layers.0.mlp.up_proj.weight")
        heads, size = whole(config, "num_attention_heads"), _head_size(config)
        kv_heads = whole(config, "num_key_value_heads", heads)
        yield Size("num_attention_heads × head_dim", heads * size, attention.format("q"))
        yield Size("num_key_value_heads × head_dim", kv_heads * size, attention.format("k"))
        if heads % kv_heads or size % 2:
            raise CheckpointRefused(
                f"config.json has num_attention_heads = {heads}, num_key_value_heads = {kv_heads} "
                f"and head_dim = {size}, wanted the second to divide the first, and an even "
                "head_dim; compare it with the config.json of the base model"
            )

    def words(self, input_ids: Tensor) -> Tensor:
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
        positions = torch.arange(sequence, device=input_ids.device).to(torch.float32)
        angles = positions.unsqueeze(1) * self.frequencies.unsqueeze(0)
        # ONNX Runtime's RotaryEmbedding wants the batch axis spelled out, not broadcast.
        cos = angles.cos().unsqueeze(0).expand(batch, -1, -1)
        sin = angles.sin().unsqueeze(0).expand(batch, -1, -1)
        mask = visible(attention_mask, causal=self.causal)
        x = self.words(input_ids, *more)
        *first, last = self.layers
        for layer in first:
            x = layer(x, cos, sin, mask)
        seen = mask if chosen is None else chosen.seen
        return self.norm(last(x, cos, sin, seen, chosen))

    def halve(self, dtype: torch.dtype) -> None:
        """See Body."""
        self.embed_tokens.to(dtype)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                module.to(dtype)


class LlamaCrossEncoder(CrossEncoder):
    """input_ids, attention_mask int64 [batch, sequence] → logits float32 [batch, 1]."""

    trunk = BidirectionalLlama
    logit = "score.weight"

    templated = True

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.pooling = one_of(config, "pooling", POOLINGS, "avg")
        self.temperature = number(config, "temperature", 1.0)
        self.model = BidirectionalLlama(config)
        self.score = nn.Linear(self.model.hidden, 1, bias=False)

    @property
    def body(self) -> Body:
        """See Architecture."""
        return self.model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        pooled = self.model.pooled(self.pooling, input_ids, attention_mask)
        return self.score(pooled) / self.temperature


def rotary_frequencies(config: Mapping[str, Any]) -> Tensor:
    """Angles per position, float32 [head_size / 2], from either spelling of the rope settings.

    transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5 `rope_parameters`.
    Rope types `default` and `llama3` are known; others are refused by name.
    """
    rope = settings(config, "rope_parameters") or settings(config, "rope_scaling")
    _refuse_contradictions(config, rope)
    theta = number(rope, "rope_theta", number(config, "rope_theta", 10000.0))
    named = "type" if rope.get("rope_type") is None else "rope_type"
    kind = one_of({"rope_type": rope.get(named)}, "rope_type", ("default", "llama3"), "default")
    refuse_unless(rope, "partial_rotary_factor", 1.0)
    size = _head_size(config)
    # On the CPU even while the module is built on the meta device: these are data, not weights.
    steps = torch.arange(0, size, 2, dtype=torch.int64, device="cpu").float()
    plain = 1.0 / theta ** (steps / size)
    return plain if kind == "default" else _llama3_scaled(plain, rope)


def _refuse_contradictions(config: Mapping[str, Any], rope: Mapping[str, Any]) -> None:
    """Versions of transformers resolve such contradictions differently, so they are refused."""
    outer = {**settings(config, "rope_scaling")}
    for key in ("rope_theta", "original_max_position_embeddings"):
        outer.setdefault(key, config.get(key))
    for key, found in outer.items():
        if found is not None and rope.get(key) is not None and rope[key] != found:
            raise CheckpointRefused(
                f"config.json says both {shown(found)} and {shown(rope[key])} for {key}; keep the "
                "one that the model was trained with"
            )


def _llama3_scaled(frequencies: Tensor, rope: Mapping[str, Any]) -> Tensor:
    """Llama 3.1's scaling: long waves slowed by `factor`, short ones kept, a ramp between."""
    factor, original = number(rope, "factor"), number(rope, "original_max_position_embeddings")
    low, high = number(rope, "low_freq_factor"), number(rope, "high_freq_factor")
    if low >= high:
        raise CheckpointRefused(
            f"config.json has low_freq_factor = {low} and high_freq_factor = {high}, wanted the "
            "first below the second; compare it with the config.json of the base model"
        )
    wavelength = 2 * math.pi / frequencies
    ramp = (original / wavelength - low) / (high - low)
    mixed = (1 - ramp) * frequencies / factor + ramp * frequencies
    scaled = torch.where(wavelength > original / low, frequencies / factor, mixed)
    return torch.where(wavelength < original / high, frequencies, scaled)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """Rotary position embedding of `x` [batch, sequence, heads × size], computed in float32."""
    return torch.onnx.ops.rotary_embedding(x.float(), cos, sin, num_heads=heads).to(x.dtype)


def _head_size(config: Mapping[str, Any]) -> int:
    heads = whole(config, "num_attention_heads")
    return whole(config, "head_dim", whole(config, "hidden_size") // heads)


def _positions(config: Mapping[str, Any]) -> int:
    """The limit of positions: no weight confirms it, and null is refused, as in transformers."""
    key = "max_position_embeddings"
    return whole(config, key) if key in config else 2048


def _reads_one_way(config: Mapping[str, Any]) -> bool:
    """Whether the config asks for a causal model; the family's default is both ways."""
    causal, both_ways = (
        None if config.get(key) is None else flag(config, key, False)
        for key in ("is_causal", "use_bidirectional_attention")
    )
    if causal is not None and causal == both_ways:
        raise CheckpointRefused(
            f"config.json has is_causal = {causal} and use_bidirectional_attention = {both_ways}, "
            "which contradict each other; keep the one that the model was trained with"
        )
    return causal if causal is not None else both_ways is False
