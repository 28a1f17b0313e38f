"""How far an artifact's outputs may be from the reference's, by precision.

Where reference scores barely differ, the tolerance is a share of their deviation.
"""

from typing import NamedTuple

from exporter.report import Parity
from runtime.profile import Precision


class Tolerances(NamedTuple):
    """Of one precision.

    `logit` is the largest |Δ logit|, for logits up to `largest_logit`; it grows in proportion
    beyond. For fp16 of trained weights it only says which reference scores count as tied: tau
    alone decides. Cosines that differ by less than twice `cosine` count as tied.

    `golden_component` is how far a golden vector of length 1 may be from what is recorded, as
    kernels on other machines round differently. `tau` is the lowest Kendall's tau.

    Random weights amplify rounding chaotically: for lower precisions the tolerance is `random`, a
    share of the reference's standard deviation, and their order means nothing. For bf16 and int8
    this checks little more than the size of the scores (1B shape, 16 layers: rms 0.25 and 0.7).
    """

    logit: float
    largest_logit: float
    cosine: float
    golden_component: float
    tau: float
    random: float


TOLERANCES: dict[Precision, Tolerances] = {
    "fp32": Tolerances(1e-4, 5.0, cosine=1e-4, golden_component=1e-4, tau=1.0, random=0.0),
    "fp16": Tolerances(0.05, 25.0, cosine=2e-3, golden_component=5e-3, tau=0.99, random=0.25),
    "bf16": Tolerances(0.05, 25.0, cosine=2e-3, golden_component=2e-2, tau=0.99, random=1.5),
    "int8": Tolerances(1e-3, 25.0, cosine=1e-3, golden_component=2e-2, tau=0.95, random=4.0),
    "int8-weights": Tolerances(1e-3, 25.0, 1e-3, golden_component=2e-2, tau=0.95, random=4.0),
    "fp8": Tolerances(1e-3, 25.0, cosine=1e-3, golden_component=2e-2, tau=0.95, random=4.0),
}
# Largest |Δ| of one component of a vector of length 1; it grows with the length beyond. Measured
# in fp32: 3e-7 on trained weights. Half precision of trained weights goes by tau alone.
COMPONENT = 1e-5
# How far a golden's logit may be from what is recorded, in float32.
GOLDEN_LOGIT = 1e-3
# fp8 and int8 by TensorRT, whose scales are constant, are held to nDCG@10 instead of tau.
MOST_DRIFT = 0.01
# Precisions whose order is also proven on passages with similar scores, and whose scores must not
# depend on the other rows of a batch.
LOW_PRECISIONS: frozenset[Precision] = frozenset({"int8", "int8-weights", "fp8"})
LOWEST_OVERLAP = 0.9
BATCH = 1e-5
# If scores spread by fewer tolerances, any graph would pass: the tolerance shrinks with the spread,
# down to the limit of float32.
_LEAST_SPREAD, _FINEST = 10, 1e-5


def within_spread(tolerance: float, spread: float) -> float:
    """`tolerance`, lowered for scores with so small a deviation that any graph would pass."""
    return min(tolerance, max(spread / _LEAST_SPREAD, _FINEST))


def by_rule(report: Parity, tolerance: float, spread: float) -> float:
    """`tolerance`, or of random weights the share of the reference's deviation `spread`."""
    if report.rule == "random-weights":
        return TOLERANCES[report.precision].random * spread
    return tolerance


def judges_values(report: Parity) -> bool:
    """Whether outputs are held to a tolerance. Coarser precisions of trained weights go by tau."""
    return report.precision == "fp32" or report.rule == "random-weights"


def judges_logits(report: Parity) -> bool:
    """`judges_values`, and for fp16 plans: a compiler chooses its own kernels."""
    fp16_plan = report.engine == "tensorrt" and report.precision == "fp16"
    return judges_values(report) or fp16_plan
