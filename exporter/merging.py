"""A LoRA adapter merged into the weights of its base: W + scale · B A (arXiv 2106.09685).

Only names and shapes are compared here. Each tensor is merged in place, in float32, when it is
read, so that the peak of memory stays that of the base.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from exporter.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter
from exporter.architectures.base import Body
from exporter.errors import CheckpointRefused
from exporter.weights import Stored, first

# peft's prefix for the names of the model that was trained.
_PREFIX = "base_model.model."
# The pair of matrices of a layer, or of an embedding, whose product is transposed.
_PAIR = re.compile(r"(.+)\.(lora_[AB]\.weight|lora_embedding_[AB])")
_LINEAR = ("lora_A.weight", "lora_B.weight")
_EMBEDDING = ("lora_embedding_A", "lora_embedding_B")
_FULL = "whole"
# In layers with a pair, the name of the base's own weight.
_BASE_LAYER = ".base_layer."
_FITTING = "export it with the base that it was trained on"


@dataclass(frozen=True)
class Merged(Stored):
    """A tensor of the base [rows, columns], and the adapter's pair for it: `down` [rank, inputs]
    and `up` [outputs, rank]. `transposed` is true if the base has it as [inputs, outputs]."""

    down: Stored
    up: Stored
    scale: float
    transposed: bool

    def read(self) -> torch.Tensor:
        """See Stored."""
        full, down, up = super().read(), self.down.read(), self.up.read()
        pair = (down.T, up.T) if self.transposed else (up, down)
        return full.addmm_(*pair, alpha=self.scale)


def merged(
    weights: Mapping[str, Stored], adapter: Adapter, body: type[Body], added: Collection[str] = ()
) -> dict[str, Stored]:
    """The `weights` of a base whose body is of this class, with the adapter merged.

    `added` are names of tensors that the base lacks and the adapter has as full tensors. Raises
    CheckpointRefused unless every tensor of the adapter has a place and fits it.
    """
    # Checkpoints and adapters are saved with the body's prefix or without; loaders take both.
    places = {name.removeprefix(body.prefix): name for name in (*added, *weights)}
    parts: dict[str, dict[str, Stored]] = {}
    unplaced = []
    for key, stored in adapter.tensors.items():
        module, side = _part(key)
        bare = module.removeprefix(body.prefix)
        if (place := places.get(bare)) is not None:
            sides = parts.setdefault(place, {})
            _refuse_twice(sides.setdefault(side, stored), stored)
        elif not bare.startswith(body.unused):
            unplaced.append(key)
    if unplaced:
        raise CheckpointRefused(
            f"{ADAPTER_WEIGHTS} in {adapter.directory} has tensors without a place in the base: "
            f"{first(unplaced)}; {_FITTING}"
        )
    _refuse_missing_modules(adapter, weights, parts)
    found = dict(weights)
    for place, sides in parts.items():
        full = sides.pop(_FULL, None)
        if full is not None:
            found[place] = _fitting(full, weights.get(place))
        if sides:
            found[place] = _paired(found[place], sides, adapter)
    return found


def full_tensors(adapter: Adapter) -> dict[str, Stored]:
    """The adapter's full tensors, as the base would name them."""
    parts = ((_part(key), stored) for key, stored in adapter.tensors.items())
    return {name: stored for (name, side), stored in parts if side == _FULL}


def _part(key: str) -> tuple[str, str]:
    """The base's tensor for an adapter's key, and the part that the key is of it."""
    name = key.removeprefix(_PREFIX)
    pair = _PAIR.fullmatch(name)
    if pair is None:
        return name.replace(_BASE_LAYER, "."), _FULL
    return f"{pair[1]}.weight", pair[2]


def _refuse_twice(before: Stored, stored: Stored) -> None:
    if before is not stored:
        raise CheckpointRefused(
            f"{ADAPTER_WEIGHTS} has both {before.name} and {stored.name} for one tensor; save the "
            "adapter again"
        )


def _fitting(stored: Stored, replaced: Stored | None) -> Stored:
    if replaced is not None and stored.shape != replaced.shape:
        raise CheckpointRefused(
            f"{ADAPTER_WEIGHTS} has {stored.name} as {list(stored.shape)}, the base has "
            f"{list(replaced.shape)}; {_FITTING}, of the same labels and vocabulary"
        )
    return stored


def _refuse_missing_modules(
    adapter: Adapter, weights: Mapping[str, Stored], parts: Mapping[str, Mapping[str, Stored]]
) -> None:
    """peft would take a missing module of modules_to_save from the base, or initialise it."""
    lacking = [
        name
        for name in weights
        if any(f".{saved}." in f".{name}" for saved in adapter.saved)
        and _FULL not in parts.get(name, {})
    ]
    if lacking:
        raise CheckpointRefused(
            f"{ADAPTER_CONFIG} has modules_to_save = {', '.join(adapter.saved)}, but "
            f"{ADAPTER_WEIGHTS} lacks {first(lacking)}; save the adapter again"
        )


def _paired(base: Stored, pair: Mapping[str, Stored], adapter: Adapter) -> Merged:
    transposed = any(side in _EMBEDDING for side in pair)
    down, up = (pair.get(side) for side in (_EMBEDDING if transposed else _LINEAR))
    if down is None or up is None or len(pair) > 2:
        raise CheckpointRefused(
            f"{ADAPTER_WEIGHTS} has {first(stored.name for stored in pair.values())}, wanted "
            "lora_A and lora_B of a layer, and nothing else; save the adapter again"
        )
    rows, columns = base.shape if len(base.shape) == 2 else (-1, -1)
    if transposed:
        rows, columns = columns, rows
    for stored, wanted in ((down, (adapter.rank, columns)), (up, (rows, adapter.rank))):
        if stored.shape != wanted:
            raise CheckpointRefused(
                f"{ADAPTER_WEIGHTS} has {stored.name} as {list(stored.shape)}, which does not fit "
                f"{base.name} {list(base.shape)} of the base and r = {adapter.rank} in "
                f"{ADAPTER_CONFIG}; {_FITTING}"
            )
    return Merged(base.file, base.name, base.shape, down, up, adapter.scale, transposed)
