"""How far an artifact's outputs may be from the reference's, by precision.

Where reference scores barely differ, the tolerance is a share of their deviation.
"""

from exporter.report import Parity
from runtime.profile import Precision

# Largest |Δ logit|, for logits up to the largest of this precision; it grows in proportion beyond.
# For fp16 of trained weights it only says which reference scores count as tied: tau alone decides.
LOGIT_TOLERANCE: dict[Precision, float] = {
    "fp32": 1e-4,
    "fp16": 0.05,
    "bf16": 0.05,
    "int8": 1e-3,
    "fp8": 1e-3,
    "int8-weights": 1e-3,
}
LARGEST_LOGIT: dict[Precision, float] = {"fp32": 5.0}
LARGEST_LOW_PRECISION_LOGIT = 25.0
# Largest |Δ| of one component of a vector of length 1; it grows with the length beyond. Measured
# in fp32: 3e-7 on trained weights. Half precision of trained weights goes by tau alone.
COMPONENT_TOLERANCE = 1e-5
# Cosines that differ by less than twice this count as tied.
COSINE_TOLERANCE: dict[Precision, float] = {
    "fp32": 1e-4,
    "fp16": 2e-3,
    "bf16": 2e-3,
    "int8": 1e-3,
    "int8-weights": 1e-3,
    "fp8": 1e-3,
}
# How far a golden may be from what is recorded. Kernels on other machines round differently.
GOLDEN_LOGIT_TOLERANCE = 1e-3
GOLDEN_COMPONENT_TOLERANCE: dict[Precision, float] = {
    "fp32": 1e-4,
    "fp16": 5e-3,
    "bf16": 2e-2,
    "int8": 2e-2,
    "int8-weights": 2e-2,
    "fp8": 2e-2,
}
LOWEST_TAU: dict[Precision, float] = {
    "fp32": 1.0,
    "fp16": 0.99,
    "bf16": 0.99,
    "int8": 0.95,
    "int8-weights": 0.95,
    "fp8": 0.95,
}
# fp8 and int8 by TensorRT, whose scales are constant, are held to nDCG@10 instead of tau.
MOST_DRIFT = 0.01
# Precisions whose order is also proven on passages with similar scores, and whose scores must not
# depend on the other rows of a batch.
LOW_PRECISIONS: frozenset[Precision] = frozenset({"int8", "int8-weights", "fp8"})
LOWEST_OVERLAP = 0.9
BATCH_TOLERANCE = 1e-5
# Random weights amplify rounding chaotically: for lower precisions the tolerance is this share of
# the reference's standard deviation, and their order means nothing. For bf16 and int8 this checks
# little more than the size of the scores (1B shape, 16 layers: rms 0.25 and 0.7).
RANDOM_SHARE: dict[Precision, float] = {
    "fp16": 0.25,
    "bf16": 1.5,
    "int8": 4.0,
    "int8-weights": 4.0,
    "fp8": 4.0,
}
# If scores spread by fewer tolerances, any graph would pass: the tolerance shrinks with the spread,
# down to the limit of float32.
_LEAST_SPREAD, _FINEST = 10, 1e-5


def within_spread(tolerance: float, spread: float) -> float:
    """`tolerance`, lowered for scores with so small a deviation that any graph would pass."""
    return min(tolerance, max(spread / _LEAST_SPREAD, _FINEST))


def by_rule(report: Parity, tolerance: float, spread: float) -> float:
    """`tolerance`, or of random weights the share of the reference's deviation `spread`."""
    if report.rule == "random-weights":
        return RANDOM_SHARE[report.precision] * spread
    return tolerance


def judges_values(report: Parity) -> bool:
    """Whether outputs are held to a tolerance. Coarser precisions of trained weights go by tau."""
    return report.precision == "fp32" or report.rule == "random-weights"
