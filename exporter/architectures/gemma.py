"""Gemma 3's text body, reading both ways (EmbeddingGemma): layers with a window and without one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from exporter.architectures.attention import cos_and_sin, frequencies
from exporter.architectures.base import Body, Size
from exporter.architectures.config import Config, shown, unlike_base
from exporter.architectures.llama import Attention, projection_sizes
from exporter.architectures.pooling import pool, visible
from exporter.errors import CheckpointRefused
from exporter.weights import Stored

FULL, SLIDING = "full_attention", "sliding_attention"
_KINDS = (FULL, SLIDING)
# transformers' defaults, and the keys of its version 4.
_THETAS = {FULL: ("rope_theta", 1_000_000.0), SLIDING: ("rope_local_base_freq", 10_000.0)}


class MLP(nn.Module):
    """The gated feed-forward block with GELU by tanh."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden, inner = config.require("hidden_size"), config.require("intermediate_size")
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = functional.gelu(self.gate_proj(x), approximate="tanh")
        return self.down_proj(gate * self.up_proj(x))


class Layer(nn.Module):
    """One layer, which normalises before and after either half. The residual stream is float32."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        bias = config.flag("attention_bias", False)
        self.self_attn = Attention(config, (bias, bias), normed=True)
        self.mlp = MLP(config)
        self.input_layernorm = _norm(config)
        self.post_attention_layernorm = _norm(config)
        self.pre_feedforward_layernorm = _norm(config)
        self.post_feedforward_layernorm = _norm(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        dtype = self.mlp.up_proj.weight.dtype
        attended = self.self_attn(self.input_layernorm(x).to(dtype), cos, sin, mask)
        x = x + self.post_attention_layernorm(attended.float())
        found = self.mlp(self.pre_feedforward_layernorm(x).to(dtype))
        return x + self.post_feedforward_layernorm(found.float())


class Gemma(Body):
    """input_ids, attention_mask int64 [batch, sequence] → states, after the final norm."""

    inputs = ("input_ids", "attention_mask")
    causal = False
    prefix = "model."
    layer_prefix = "layers."
    words = "embed_tokens.weight"
    widening = "layers.0.mlp.up_proj.weight"
    required = ("num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window")

    def __init__(self, config: Config) -> None:
        super().__init__()
        config.one_of("hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
        config.require("query_pre_attn_scalar")  # else 256
        config.refuse_unless("query_pre_attn_scalar", config.whole("head_dim"))
        for key in ("attn_logit_softcapping", "final_logit_softcapping", "rope_scaling"):
            config.refuse_unless(key, None)
        if not config.flag("use_bidirectional_attention", False):
            raise CheckpointRefused(
                "config.json has use_bidirectional_attention = "
                f"{shown(config.get('use_bidirectional_attention'))}, wanted true: Gemma is "
                "exported as an embedder that reads both ways"
            )
        self.hidden = int(config.require("hidden_size"))
        self.position_limit = config.whole("max_position_embeddings")
        self.kinds = layer_kinds(config)
        # As transformers counts it, with neither end.
        self.reach = config.whole("sliding_window") // 2
        self.embed_tokens = nn.Embedding(config.require("vocab_size"), self.hidden)
        self.layers = nn.ModuleList(Layer(config) for _ in self.kinds)
        self.norm = _norm(config)
        # Plain tensors, neither parameters nor buffers: no cast of the module can round them.
        self.frequencies = {kind: _frequencies(config, kind) for kind in _KINDS}

    @classmethod
    def sizes(cls, config: Config) -> Iterator[Size]:
        """See Part."""
        for key in cls.required:
            config.whole(key)
        yield from super().sizes(config)
        yield from projection_sizes(config)

    @classmethod
    def stored(cls, weights: Mapping[str, Stored]) -> dict[str, Stored]:
        """See Body: norms are saved as their difference from 1."""
        return {
            name: _Raised(found.file, found.name, found.shape, found)
            if name.endswith("norm.weight")
            else found
            for name, found in weights.items()
        }

    def pooled(self, pooling: str, *inputs: Tensor) -> Tensor:
        """See Body; the last layer always computes every token."""
        return pool(self(*inputs), inputs[1], pooling)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        batch, sequence = input_ids.shape
        positions = torch.arange(sequence, device=input_ids.device)
        near = (positions.unsqueeze(1) - positions.unsqueeze(0)).abs() <= self.reach
        real = visible(attention_mask)
        masks = {FULL: real, SLIDING: real & near}
        angles = {
            kind: cos_and_sin(positions, angle, batch) for kind, angle in self.frequencies.items()
        }
        x = self.embed_tokens(input_ids).float() * self.hidden**0.5
        for layer, kind in zip(self.layers, self.kinds, strict=True):
            x = layer(x, *angles[kind], masks[kind])
        return self.norm(x)


@dataclass(frozen=True)
class _Raised(Stored):
    """A tensor plus 1."""

    of: Stored

    def read(self) -> Tensor:
        """See Stored."""
        return self.of.read() + 1


def layer_kinds(config: Config) -> list[str]:
    """FULL or SLIDING for each layer: of layer_types, or every sixth full."""
    count, kinds = config.whole("num_hidden_layers"), config.get("layer_types")
    if kinds is None:
        every = config.whole("sliding_window_pattern", 6)
        return [SLIDING if (index + 1) % every else FULL for index in range(count)]
    config.get("sliding_window_pattern")
    config.get("_sliding_window_pattern")  # as transformers writes it
    if not isinstance(kinds, list) or len(kinds) != count or not {*kinds} <= {*_KINDS}:
        raise unlike_base(f"layer_types = {shown(kinds)}", f"{count} of these: {', '.join(_KINDS)}")
    return kinds


def _frequencies(config: Config, kind: str) -> Tensor:
    key, default = _THETAS[kind]
    rope = config.settings("rope_parameters").settings(kind)
    rope.one_of("rope_type", ("default",), "default")
    theta = rope.number("rope_theta", config.number(key, default))
    return frequencies(theta, config.whole("head_dim"))


def _norm(config: Config) -> nn.RMSNorm:
    return nn.RMSNorm(config.require("hidden_size"), config.epsilon("rms_norm_eps", 1e-6))
