"""What a training costs, before its first step: tokens, and memory of the device.

Memory is 4 bytes a weight, 12 bytes a trained weight (its gradient and AdamW's two moments, all in
float32), and the activations that the backward pass needs. Those of a batch of r rows of s tokens
are c + r (a s + b s²) bytes: c are copies of weights in half precision, b is 0 unless the attention
keeps its scores. The three are found for the model at hand, with its adapters, types and recomputed
layers, by counting what autograd keeps of three short rows.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from recipe.training.checkpoint import PairBatcher
from recipe.training.examples import Examples
from recipe.training.trainer import Place

# Makes the block in which a forward pass computes in half precision, where one does.
Autocast = Callable[[], AbstractContextManager[Any]]
_WEIGHT_BYTES, _TRAINED_BYTES = 4, 12
_SAMPLED = 500
# Long enough for the tiles of any kernel, short enough to take no time.
_PROBED_TOKENS = 128


@dataclass(frozen=True)
class Tokens:
    """Tokens of `examples` examples as they are batched: `computed` with padding, `real` without.

    `longest` is the most tokens of a padded row.
    """

    examples: int
    rows: int
    computed: int
    real: int
    longest: int

    def said(self, examples: int, epochs: int) -> str:
        """In words, the tokens of `epochs` epochs of so many examples."""
        total = self.computed * examples * epochs / self.examples
        found = "" if self.examples == examples else f" (by the first {self.examples} examples)"
        return (
            f"about {total:,.0f} tokens in {epochs} epoch(s), "
            f"{1 - self.real / self.computed:.0%} of them padding{found}; a row has "
            f"{self.real / self.rows:.0f} on average and {self.longest} at most"
        )


def count_tokens(
    batcher: PairBatcher, examples: Examples, places: Iterable[Place], at_once: int
) -> Tokens:
    """Tokens of the first examples of an epoch, `at_once` of them in a forward pass."""
    taken = list(islice(places, max(1, _SAMPLED // at_once) * at_once))
    rows = computed = real = longest = 0
    for start in range(0, len(taken), at_once):
        groups = [examples[place] for place in taken[start : start + at_once]]
        pairs = [(group.query, passage) for group in groups for passage in group.passages]
        lengths = batcher.lengths(pairs)
        width = batcher.width(max(lengths))
        rows, real = rows + len(lengths), real + sum(lengths)
        computed, longest = computed + width * len(lengths), max(longest, width)
    return Tokens(len(taken), rows, computed, real, longest)


@dataclass(frozen=True)
class Memory:
    """Bytes of one process: what is held whatever the batch, and the activations of a batch."""

    weights: int
    trained: int
    activations: int

    @property
    def total(self) -> int:
        """All of it, at the end of a forward pass."""
        return _WEIGHT_BYTES * self.weights + _TRAINED_BYTES * self.trained + self.activations

    def said(self, rows: int, tokens: int) -> str:
        """In words, for batches of so many rows of so many tokens."""
        return (
            f"about {_gib(self.total)} GiB of memory: {_gib(_WEIGHT_BYTES * self.weights)} for "
            f"{self.weights / 1e6:.1f} million weights, {_gib(_TRAINED_BYTES * self.trained)} for "
            f"gradients and moments of the {self.trained / 1e6:.1f} million trained, "
            f"{_gib(self.activations)} for activations of {rows} rows of {tokens} tokens"
        )


def memory(model: Any, autocast: Autocast, rows: int, tokens: int, *, recomputes: bool) -> Memory:
    """The memory that training takes with `rows` rows of `tokens` tokens in a forward pass.

    `recomputes`: with gradient checkpointing, where one layer's activations are kept at a time
    beside the inputs of all. The model is left in training mode; no random number is drawn.
    """
    model.train()
    kept = _activations(model, autocast, rows, tokens)
    if recomputes:
        layer = kept // model.config.num_hidden_layers
        model.activation_checkpointing_enable({"use_reentrant": False})
        kept = layer + _activations(model, autocast, rows, tokens)
    every = list(model.parameters())
    return Memory(
        weights=sum(one.numel() for one in every),
        trained=sum(one.numel() for one in every if one.requires_grad),
        activations=kept,
    )


def _activations(model: nn.Module, autocast: Autocast, rows: int, tokens: int) -> int:
    most = min(_PROBED_TOKENS, tokens)
    widths = [most // 4, most // 2, most]
    found = [_kept_bytes(model, autocast, width) for width in widths]
    square, linear, fixed = map(float, np.polyfit(widths, found, 2))
    return round(max(0.0, fixed) + rows * (linear * tokens + max(0.0, square) * tokens**2))


def _kept_bytes(model: nn.Module, autocast: Autocast, width: int) -> int:
    """What autograd keeps after a forward pass of one row, without the parameters themselves."""
    own = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.ones((1, width), dtype=torch.int64, device=next(model.parameters()).device)
    with torch.random.fork_rng(), saved_tensors_hooks(keep, lambda tensor: tensor), autocast():
        # Held until it is counted, or the storages of one tensor are given to the next.
        _output = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        return int(sum(kept.values()))


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f}"
