"""Batches of groups, and the losses that are trained on."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import EvalPrediction

from recipe.training.checkpoint import PairBatcher
from recipe.training.groups import Group

_TARGETS, _TEACHER = "labels", "teacher"


def collate(batcher: PairBatcher, groups: Sequence[Group]) -> dict[str, Tensor]:
    """The groups' pairs as one batch, group by group, and a target for each group.

    Groups with a teacher's scores add them as float32 [groups, passages].
    """
    pairs = [(group.query, passage) for group in groups for passage in group.passages]
    batch = {**batcher(pairs), _TARGETS: torch.zeros(len(groups), dtype=torch.int64)}
    if groups[0].scores:
        batch[_TEACHER] = torch.tensor([group.scores for group in groups], dtype=torch.float32)
    return batch


def cross_entropy(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Softmax cross-entropy over the logits of each group, whose first passage is the target.

    The mean loss of a batch of groups, float32 [], and the logits [groups, passages], which the
    model has divided by its temperature.
    """
    logits = _logits(model, batch)
    return functional.cross_entropy(logits, batch[_TARGETS]), logits


def margin_mse(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Margin-MSE: the mean of (student's margin - teacher's margin)² over all pairs of a positive
    and a negative (Hofstätter et al. 2020, arXiv 2010.02666). Returns as `cross_entropy` does.
    """
    logits = _logits(model, batch)
    return functional.mse_loss(_margins(logits), _margins(batch[_TEACHER])), logits


def ranks(predicted: EvalPrediction) -> Mapping[str, float]:
    """Metrics of the validation groups: the rank of the positive among its passages."""
    logits = np.asarray(predicted.predictions)
    # A tie counts against the model.
    found = 1 + (logits[:, 1:] >= logits[:, :1]).sum(axis=1)
    return {"mrr": float((1 / found).mean()), "accuracy": float((found == 1).mean())}


def _logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """float32 [groups, passages], of a model that gives one logit a row."""
    rows = {name: value for name, value in batch.items() if name not in (_TARGETS, _TEACHER)}
    logits: Tensor = model(**rows).logits
    groups = len(batch[_TARGETS])
    return logits.float().view(groups, len(rows["input_ids"]) // groups)


def _margins(scores: Tensor) -> Tensor:
    """The positive's score less that of each negative: [groups, passages - 1]."""
    return scores[:, :1] - scores[:, 1:]
