"""How many tokens a target computes for 100 passages of mixed lengths, with our own batching."""

from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np

from runtime.batch import BatchLimits, assemble
from runtime.profile import TargetProfile
from runtime.scheduling.admission import QueueLimits
from runtime.scheduling.scheduler import Scheduler
from runtime.shapes import PLACES_INPUT
from runtime.text import Encoding

# Evenly on a logarithmic scale, as the benches' passages are.
_SHORTEST, _LONGEST, _PASSAGES = 30, 512, 100
_INPUTS = ("input_ids", "attention_mask")
# To which the CUDA engine pads rows.
_ALIGNED = 4


class Padding(NamedTuple):
    """Calls; tokens that are real; tokens that attention computes, and all the rest."""

    calls: int
    real: int
    attention: int
    linear: int

    @property
    def share(self) -> float:
        """How much of what is computed outside attention is padding."""
        return 1 - self.real / self.linear


def mixed_rows() -> list[Encoding]:
    """100 rows."""
    lengths = np.geomspace(_SHORTEST, _LONGEST, _PASSAGES).round().astype(int)
    return [Encoding(np.ones(length, np.int64), None) for length in lengths]


def of_target(target: TargetProfile) -> Padding:
    """Count the calls that a scheduler makes of one request."""
    names = [*_INPUTS, PLACES_INPUT] if target.packed else list(_INPUTS)
    calls: list[dict[str, np.ndarray]] = []

    def compute(rows: Sequence[Encoding]) -> np.ndarray:
        longest = max(map(len, rows))
        shape = len(rows), -(-longest // _ALIGNED) * _ALIGNED
        calls.append(assemble(rows, names, 0, "right", shape))
        return np.zeros(len(rows), np.float32)

    limits = BatchLimits(target.max_rows, target.token_budget, target.padding_waste)
    rows = mixed_rows()
    with closing(Scheduler(compute, limits, QueueLimits(len(rows), 1 << 20))) as scheduler:
        scheduler.submit(rows, None).result()
    padded = [call["input_ids"].size for call in calls]
    return Padding(
        calls=len(calls),
        real=sum(map(len, rows)),
        attention=sum(padded),
        linear=sum(call[PLACES_INPUT].size for call in calls) if target.packed else sum(padded),
    )
