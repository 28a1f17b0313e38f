"""SigLIP's vision tower, the plain one: square tiles of one size, learned positions.

Parameter names are those of the checkpoints behind `vision_model.`.
"""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional

from exporter.architectures.attention import attend
from exporter.architectures.base import Size
from exporter.architectures.config import Config, unlike_base

_CHANNELS = 3


class _Embeddings(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden, patch = config.whole("hidden_size"), config.whole("patch_size", 16)
        self.patch_embedding = nn.Conv2d(_CHANNELS, hidden, kernel_size=patch, stride=patch)
        self.position_embedding = nn.Embedding(patches(config) ** 2, hidden)

    def forward(self, pixels: Tensor) -> Tensor:
        """float32 [tiles, patches², hidden]; patches are counted row by row."""
        dtype = self.patch_embedding.weight.dtype
        found = self.patch_embedding(pixels.to(dtype)).flatten(2).transpose(1, 2)
        return found.float() + self.position_embedding.weight.float()


class _Attention(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.v_proj, self.out_proj = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self._heads = heads

    def forward(self, x: Tensor) -> Tensor:
        found = attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), None, self._heads)
        return self.out_proj(found)


class _MLP(nn.Module):
    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(hidden, inner), nn.Linear(inner, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


class _Layer(nn.Module):
    """The residual stream and the norms stay float32 whatever the weights are."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden, eps = config.whole("hidden_size"), config.epsilon("layer_norm_eps", 1e-6)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(hidden, eps), nn.LayerNorm(hidden, eps)
        self.self_attn = _Attention(hidden, config.whole("num_attention_heads"))
        self.mlp = _MLP(hidden, config.whole("intermediate_size"))

    def forward(self, x: Tensor) -> Tensor:
        dtype = self.mlp.fc1.weight.dtype
        x = x + self.self_attn(self.layer_norm1(x).to(dtype)).float()
        return x + self.mlp(self.layer_norm2(x).to(dtype)).float()


class _Encoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        count = config.whole("num_hidden_layers")
        self.layers = nn.ModuleList(_Layer(config) for _ in range(count))


class Siglip(nn.Module):
    """pixel_values float32 [tiles, 3, size, size] → states float32 [tiles, patches², hidden]."""

    prefix = "vision_model."
    layer_prefix = "encoder.layers."

    def __init__(self, config: Config) -> None:
        super().__init__()
        config.one_of("hidden_act", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
        config.refuse_unless("num_channels", _CHANNELS)
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        eps = config.epsilon("layer_norm_eps", 1e-6)
        self.post_layernorm = nn.LayerNorm(config.whole("hidden_size"), eps)

    @classmethod
    def sizes(cls, config: Config) -> Iterator[Size]:
        """See Part."""
        config.head_size()
        hidden, positions = config.whole("hidden_size"), "embeddings.position_embedding.weight"
        yield Size("(image_size / patch_size)²", patches(config) ** 2, positions)
        yield Size("hidden_size", hidden, positions, axis=1)
        inner = config.whole("intermediate_size")
        yield Size("intermediate_size", inner, "encoder.layers.0.mlp.fc1.weight")

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embeddings(pixels)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.post_layernorm(x)


def patches(config: Config) -> int:
    """How many patches a tile has on a side; an even number, as four become one token."""
    size, patch = config.whole("image_size"), config.whole("patch_size", 16)
    if size % (2 * patch):
        found = f"image_size = {size} and patch_size = {patch}"
        raise unlike_base(found, "an even number of patches on a side")
    return size // patch
