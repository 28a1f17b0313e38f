"""The training loop of ranker and embedder: AdamW, half a cosine, averaged weights."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)

LAST_RATE, WARM_UP, CLIP = 1e-4, 100, 1.0
AVERAGE = 0.995  # decay of the averaged weights, which are the result


@dataclass(frozen=True)
class Plan:
    """One training: ``lengths`` holds (share of the steps, most tokens of a row from there on)."""

    steps: int
    rate: float
    step_tokens: int  # of all rows of a step, including padding
    lengths: tuple[tuple[float, int], ...]

    def most_tokens(self, step: int) -> int:
        """The longest row of a step."""
        return max(length for share, length in self.lengths if step >= share * self.steps)

    def rate_at(self, step: int) -> float:
        """Learning rate: a short warm-up, then half a cosine."""
        warm = min(1.0, (step + 1) / WARM_UP)
        fall = (1 + math.cos(math.pi * step / self.steps)) / 2
        return warm * (LAST_RATE + (self.rate - LAST_RATE) * fall)


def fit(model: Module, plan: Plan, loss_at: Callable[[int], torch.Tensor]) -> Module:
    """Train in place on the loss of every step; return the averaged weights as a separate
    model."""
    averaged = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    began, losses = time.monotonic(), []
    for step in range(plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate_at(step)
        loss = loss_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        _average(averaged, model, min(AVERAGE, step / (step + 10)))
        losses.append(loss.item())
        if step % 100 == 0:
            recent = sum(losses[-100:]) / len(losses[-100:])
            print(f"step {step} loss {recent:.4f} {time.monotonic() - began:.0f} s", flush=True)
    return averaged.eval()


def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for mean, now in zip(averaged.parameters(), model.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
