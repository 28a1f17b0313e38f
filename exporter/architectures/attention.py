"""Attention over heads and rotary positions, as several families compute them."""

import torch
from torch import Tensor
from torch.nn import functional


def frequencies(theta: float, size: int) -> Tensor:
    """Angles per position, float32 [size / 2], of a head of `size` components."""
    # On the CPU even while the module is built on the meta device: these are data, not weights.
    steps = torch.arange(0, size, 2, dtype=torch.int64, device="cpu").float()
    return 1.0 / theta ** (steps / size)


def cos_and_sin(positions: Tensor, frequencies: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [batch, sequence, size / 2], of `positions` int64 [sequence]."""
    angles = positions.float().unsqueeze(1) * frequencies.unsqueeze(0)
    # ONNX Runtime's RotaryEmbedding wants the batch axis spelled out, not broadcast.
    cos = angles.cos().unsqueeze(0).expand(batch, -1, -1)
    return cos, angles.sin().unsqueeze(0).expand(batch, -1, -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """Rotary position embedding of `x` [batch, sequence, heads × size], computed in float32."""
    return torch.onnx.ops.rotary_embedding(x.float(), cos, sin, num_heads=heads).to(x.dtype)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    heads: int,
    kv_heads: int | None = None,
    *,
    causal: bool = False,
) -> Tensor:
    """[batch, rows, heads × size] of `query` of that shape and `key` and `value` [batch, sequence,
    kv_heads × size]; `heads` share the fewer `kv_heads`. True in `mask` is seen; if `causal` there
    is none, and every row sees the keys up to its own place."""
    found = functional.scaled_dot_product_attention(
        split_heads(query, heads),
        split_heads(key, kv_heads or heads),
        split_heads(value, kv_heads or heads),
        attn_mask=mask,
        is_causal=causal,
        enable_gqa=kv_heads not in (None, heads),
    )
    return join_heads(found)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[batch, sequence, heads × size] → [batch, heads, sequence, size]."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """The inverse of `split_heads`."""
    return x.transpose(1, 2).flatten(2)
