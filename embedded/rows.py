"""Run a model on rows of uneven length."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

_PAD = 1
_PARTS = 4


def run(model: nn.Module, rows: list[np.ndarray]) -> torch.Tensor:
    """The model's output for each row of token ids, in order.

    Rows of similar length run together, padded on the left, to save padding.
    """
    order = np.argsort([len(row) for row in rows], kind="stable")
    parts = []
    for part in np.array_split(order, min(_PARTS, len(rows))):
        width = max(len(rows[index]) for index in part)
        ids = np.full((len(part), width), _PAD, np.int64)
        mask = np.zeros((len(part), width), np.int64)
        for line, index in enumerate(part):
            ids[line, width - len(rows[index]) :] = rows[index]
            mask[line, width - len(rows[index]) :] = 1
        parts.append(model(torch.from_numpy(ids), torch.from_numpy(mask)))
    return torch.cat(parts)[torch.from_numpy(np.argsort(order))]
