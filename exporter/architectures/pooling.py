"""From hidden states to one vector a row, and the attention mask; independent of padding side."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

POOLINGS = ("avg", "cls", "last")


@dataclass(frozen=True)
class Chosen:
    """The one token of each row that is pooled.

    `index` int64 [batch, 1] is its position, `seen` bool [batch, 1, 1, sequence] which tokens
    it sees.
    """

    index: Tensor
    seen: Tensor
    _one_hot: Tensor

    @classmethod
    def by(cls, attention_mask: Tensor, pooling: str, *, causal: bool) -> Self:
        """The first real token of each row (`cls`) or the last one (`last`), each found in its own
        row: which side is padded does not matter. A row without any real token has one at its
        end."""
        positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        real = attention_mask.bool()
        if pooling == "last":
            index = torch.where(real, positions, 0).amax(dim=1, keepdim=True)
        else:
            # The last position is taken from the others: ONNX Runtime would compute with the length
            # on the CPU, and capture no CUDA graph.
            index = torch.where(real, positions, positions[-1:]).amin(dim=1, keepdim=True)
        here = positions == index
        seen = (real & (positions <= index) if causal else real) | here
        return cls(index, seen[:, None, None, :], here.to(torch.float32).unsqueeze(1))

    def of(self, states: Tensor) -> Tensor:
        """float32 [batch, 1, size] of `states` float32 [batch, sequence, size]."""
        # A product with a one-hot row instead of a gather: every engine has it.
        return torch.matmul(self._one_hot, states)


def pool(states: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """float32 [batch, hidden] from `states` float32 [batch, sequence, hidden].

    `avg` is the mean over real tokens, `cls` the first real token, `last` the last real one (see
    Chosen). A row without any real token gives a finite vector.
    """
    if pooling == "avg":
        # A sum and no product, which OpenVINO would compute in bf16: eight times the error.
        weights = attention_mask.to(torch.float32).unsqueeze(-1)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
    return Chosen.by(attention_mask, pooling, causal=False).of(states).squeeze(1)


def padding_behind(input_ids: Tensor, attention_mask: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
    """All, int64 [batch, sequence], with every row turned so that it begins with a real token:
    padding, which is on one side of them, then is behind them."""
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    # Not from the shape, which a captured CUDA graph cannot copy to the device, and not as the
    # greatest one, for which ONNX Runtime's CUDA provider needs cuDNN.
    last = positions[-1:]
    first = torch.where(attention_mask.bool(), positions, last).amin(dim=1, keepdim=True)
    far = positions + first
    places = torch.where(far <= last, far, far - last - 1)
    return tuple(one.gather(1, places) for one in (input_ids, attention_mask, *more))


def visible(attention_mask: Tensor) -> Tensor:
    """Which token sees which, both ways: bool [batch, 1, sequence, sequence].

    Every token sees itself, padding included. A row of the mask without any True would be 0/0 in
    the softmax, and NaN times a zero weight is NaN in every real token as well.
    """
    batch, sequence = attention_mask.shape
    positions = torch.arange(sequence, device=attention_mask.device)
    here, there = positions.unsqueeze(1), positions.unsqueeze(0)
    real = attention_mask.bool()[:, None, None, :].expand(batch, 1, sequence, sequence)
    return real | (there == here)
