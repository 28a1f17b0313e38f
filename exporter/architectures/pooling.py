"""From hidden states to one vector a row, and the attention mask; independent of padding side."""

import torch
from torch import Tensor

POOLINGS = ("avg", "cls", "last")


def pool(states: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """float32 [batch, hidden] from `states` float32 [batch, sequence, hidden].

    `avg` is the mean over real tokens, `cls` the first real token, `last` the last real one, each
    found in its own row: which side is padded does not matter. A row without any real token
    gives a finite vector.
    """
    if pooling == "avg":
        weights = attention_mask.to(torch.float32).unsqueeze(-1)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
    positions = torch.arange(states.shape[1], device=states.device)
    real = attention_mask.bool()
    if pooling == "last":
        index = torch.where(real, positions, 0).amax(dim=1)
    else:
        index = torch.where(real, positions, states.shape[1] - 1).amin(dim=1)
    chosen = (positions == index.unsqueeze(1)).to(torch.float32)
    # A product with a one-hot row instead of a gather: every engine has it.
    return torch.matmul(chosen.unsqueeze(1), states).squeeze(1)


def visible(attention_mask: Tensor, *, causal: bool) -> Tensor:
    """Which token sees which: bool [batch, 1, sequence, sequence].

    Every token sees itself, padding included. A row of the mask without any True would be 0/0 in
    the softmax, and NaN times a zero weight is NaN in every real token as well.
    """
    batch, sequence = attention_mask.shape
    positions = torch.arange(sequence, device=attention_mask.device)
    here, there = positions.unsqueeze(1), positions.unsqueeze(0)
    real = attention_mask.bool()[:, None, None, :].expand(batch, 1, sequence, sequence)
    if causal:
        real = real & (there <= here)
    return real | (there == here)
