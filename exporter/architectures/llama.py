"""Decoders of Llama's kind: the body of llama-nemotron's rerankers and embedders, which read both
ways, and of plain Llamas, Mistrals, Ministrals and Qwens, which do so only if they are told to.

Parameter names are those of the checkpoints, so that a state dict loads as it is. In a causal model
no token sees what follows, so its rows need no mask once their padding is behind them: attention
then runs in the engines' own causal form.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from exporter.architectures.attention import attend, cos_and_sin, rotate
from exporter.architectures.base import Body, CrossEncoder, Size
from exporter.architectures.config import Config, unlike_base
from exporter.architectures.pooling import POOLINGS, Chosen, padding_behind, visible
from exporter.architectures.rope import position_limit, rotary_frequencies
from exporter.errors import CheckpointRefused


class Attention(nn.Module):
    """Grouped-query attention: `heads` query heads share `kv_heads` key and value heads.

    `biases` are those of the projections of queries, keys and values, and of the last one. With
    `normed` every head of queries and keys is normalised before it is rotated.
    """

    def __init__(self, config: Config, biases: tuple[bool, bool], *, normed: bool = False) -> None:
        super().__init__()
        hidden, size = config.require("hidden_size"), _head_size(config)
        self.heads = config.require("num_attention_heads")
        self.kv_heads = config.whole("num_key_value_heads", self.heads)
        bias, last_bias = biases
        self.q_proj = nn.Linear(hidden, self.heads * size, bias=bias)
        self.k_proj = nn.Linear(hidden, self.kv_heads * size, bias=bias)
        self.v_proj = nn.Linear(hidden, self.kv_heads * size, bias=bias)
        self.o_proj = nn.Linear(self.heads * size, hidden, bias=last_bias)
        if normed:
            epsilon = config.epsilon("rms_norm_eps", 1e-6)
            self.q_norm, self.k_norm = nn.RMSNorm(size, epsilon), nn.RMSNorm(size, epsilon)
        self._normed = normed

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, chosen: Chosen | None = None
    ) -> Tensor:
        """`x` [batch, sequence, hidden] in the weights' dtype; `cos`, `sin` float32; no `mask` is
        the causal one. With `chosen` that token's row alone, [batch, 1, hidden]."""
        read, angles = x, (cos, sin)
        if chosen is not None:
            read, angles = chosen.of(x), (chosen.of(cos), chosen.of(sin))
        query, key = self.q_proj(read), self.k_proj(x)
        if self._normed:
            query = _normed(query, self.heads, self.q_norm)
            key = _normed(key, self.kv_heads, self.k_norm)
        query = rotate(query, *angles, self.heads)
        key = rotate(key, cos, sin, self.kv_heads)
        values, heads = self.v_proj(x), (self.heads, self.kv_heads)
        found = attend(query, key, values, mask, *heads, causal=mask is None)
        return self.o_proj(found)


def _normed(x: Tensor, heads: int, norm: nn.RMSNorm) -> Tensor:
    """Every head of `x` [batch, sequence, heads × size], normalised in float32."""
    return norm(x.float().unflatten(2, (heads, -1))).flatten(2).to(x.dtype)


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

    def __init__(self, config: Config, attention: Attention) -> None:
        super().__init__()
        self.self_attn = attention
        self.mlp = MLP(config)
        self.input_layernorm = _norm(config)
        self.post_attention_layernorm = _norm(config)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, chosen: Chosen | None = None
    ) -> Tensor:
        dtype = self.mlp.up_proj.weight.dtype
        attended = self.self_attn(self.input_layernorm(x).to(dtype), cos, sin, mask, chosen)
        x = (x if chosen is None else chosen.of(x)) + attended.float()
        return x + self.mlp(self.post_attention_layernorm(x).to(dtype)).float()


class Llama(Body):
    """input_ids, attention_mask int64 [batch, sequence] → states.

    If it is `causal`, padding must be behind the tokens, where `pooled` moves it. `required` are
    keys of config.json whose absence means something else in each family; with `normed` every head
    of queries and keys is normalised.
    """

    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    prefix = "model."
    layer_prefix = "layers."
    words = "embed_tokens.weight"
    widening = "layers.0.mlp.up_proj.weight"
    required: ClassVar[tuple[str, ...]] = ()
    normed: ClassVar[bool] = False

    def __init__(self, config: Config) -> None:
        super().__init__()
        config.one_of("hidden_act", ("silu",), "silu")
        config.refuse_unless("partial_rotary_factor", 1.0)
        self._refuse_windows(config)
        self.causal = self._reads_one_way(config)
        self.hidden = int(config.require("hidden_size"))
        self.position_limit = position_limit(config, _positions(config))
        self.embed_tokens = nn.Embedding(config.require("vocab_size"), self.hidden)
        self.layers = nn.ModuleList(
            Layer(config, Attention(config, self._biases(config), normed=self.normed))
            for _ in range(config.require("num_hidden_layers"))
        )
        self.norm = _norm(config)
        # A plain tensor, neither parameter nor buffer: no cast of the module can round it.
        self.frequencies = rotary_frequencies(config, _head_size(config))

    @classmethod
    def sizes(cls, config: Config) -> Iterator[Size]:
        """See Part."""
        for key in cls.required:
            config.require(key)
        _positions(config)
        yield from super().sizes(config)
        yield from projection_sizes(config)

    @staticmethod
    def _biases(config: Config) -> tuple[bool, bool]:
        """See Attention."""
        bias = config.flag("attention_bias", False)
        return bias, bias

    @staticmethod
    def _refuse_windows(config: Config) -> None:
        """Raise CheckpointRefused for layers that see a window of the row alone."""
        for key in ("sliding_window", "use_sliding_window"):
            config.refuse_unless(key, False)

    @staticmethod
    def _reads_one_way(config: Config) -> bool:
        """Whether a token sees only those before it."""
        return config.flag("is_causal", True)

    def embedded(self, input_ids: Tensor, *_: Tensor) -> Tensor:
        """Input embeddings of the first layer, float32 [batch, sequence, hidden]. Multimodal models
        take more inputs, and put their own embeddings among those of the tokens."""
        return self.embed_tokens(input_ids).float()

    def pooled(self, pooling: str, *inputs: Tensor) -> Tensor:
        """See Body."""
        if self.causal:
            ids, mask, *more = inputs
            inputs = (*padding_behind(ids, mask), *more)
        return super().pooled(pooling, *inputs)

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
        mask = None if self.causal else visible(attention_mask)
        x = self.embedded(input_ids, *more)
        *first, last = self.layers
        for layer in first:
            x = layer(x, cos, sin, mask)
        seen = mask if chosen is None else chosen.seen
        return self.norm(last(x, cos, sin, seen, chosen))


class BidirectionalLlama(Llama):
    """The family of model_type `llama_bidirec`, which reads both ways if config.json says
    nothing, and names the pooling."""

    pools = True

    @staticmethod
    def _reads_one_way(config: Config) -> bool:
        causal, both_ways = (
            None if config.get(key) is None else config.flag(key, False)
            for key in ("is_causal", "use_bidirectional_attention")
        )
        if causal is not None and causal == both_ways:
            raise CheckpointRefused(
                f"config.json has is_causal = {causal} and use_bidirectional_attention = "
                f"{both_ways}, which contradict each other; keep the one that the model was "
                "trained with"
            )
        return causal if causal is not None else both_ways is False


class LastTokenCrossEncoder(CrossEncoder):
    """input_ids, attention_mask int64 [batch, sequence] → logits float32 [batch, 1]: the last
    token's state, times the head's one row."""

    trunk: ClassVar[type[Llama]]
    logit = "score.weight"
    templated = True
    pooling = "last"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.model = self.trunk(config)
        self.score = nn.Linear(self.model.hidden, 1, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        pooled = self.model.pooled(self.pooling, input_ids, attention_mask)
        return self.score(pooled) / self.temperature


class LlamaCrossEncoder(LastTokenCrossEncoder):
    """llama_bidirec's, whose config.json names another pooling and a temperature."""

    trunk = BidirectionalLlama

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.pooling = config.one_of("pooling", POOLINGS, "avg")
        self.temperature = config.number("temperature", 1.0)


def projection_sizes(config: Config) -> Iterator[Size]:
    """The sizes of Attention in the first layer. Raises CheckpointRefused."""
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


def _norm(config: Config) -> nn.RMSNorm:
    return nn.RMSNorm(config.require("hidden_size"), config.epsilon("rms_norm_eps", 1e-6))


def _head_size(config: Config) -> int:
    heads = config.whole("num_attention_heads")
    return config.whole("head_dim", config.whole("hidden_size") // heads)


def _positions(config: Config) -> int:
    """The limit of positions: no weight confirms it, and null is refused, as in transformers."""
    key = "max_position_embeddings"
    return config.whole(key) if key in config else 2048
