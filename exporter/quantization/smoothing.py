"""SmoothQuant: move outlier channels of activations into the weights without changing the score.

x W = (x / s)(s W) for every positive s [channels]. With s = √(a / w), where a and w are the largest
magnitudes of a channel in activations and weights, both sides lose about as much when they are
rounded (Xiao et al. 2022, arXiv:2211.10438, equation 4). The division costs nothing if the producer
of x can absorb it: a norm without other readers, or a linear layer that is a factor of x.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from exporter.quantization.calibration import Range
from exporter.quantization.graph import Floats, Graph, Linear, node

_NORMS = ("RMSNormalization", "LayerNormalization")
# Activations whose negative side is this small beside the positive one (GELU, ReLU) are moved up
# and use all steps; the others spread around zero.
_ONE_SIDED = 0.1


@dataclass(frozen=True)
class Smoothed:
    """What linear layers read instead of a value: `value`, which is that value less `offset`
    (None: nothing was subtracted) and divided by a scale."""

    value: str
    offset: float | None


class Matrix:
    """The weights of a linear layer, times `rows` float32 [inputs] and `columns` float32 [outputs].

    The product is computed on access, to avoid a second copy of all weights.
    """

    def __init__(self, graph: Graph, linear: Linear) -> None:
        self.linear = linear
        self._original = graph.array(linear.weight)
        inputs, outputs = self._original.shape
        self.rows: Floats = np.ones(inputs, np.float32)
        self.columns: Floats = np.ones(outputs, np.float32)

    def values(self) -> Floats:
        """The weights as they are now, float32 [inputs, outputs]."""
        values: Floats = self._original * self.rows[:, None] * self.columns
        return values

    def sums(self) -> Floats:
        """What the original columns add up to, float32 [outputs]."""
        sums: Floats = self._original.sum(axis=0, dtype=np.float32)
        return sums


def smooth(
    graph: Graph,
    matrices: Mapping[str, Matrix],
    ranges: Mapping[str, Range],
) -> dict[str, Smoothed]:
    """Divide what linear layers read by a scale for each channel, and multiply their matrices.

    `matrices` maps the layers' results to their weights. Returns what to read for each source.
    Products miss `offset` times the column sums of the original matrices, which the caller adds.
    """
    smoothed = {}
    for source in dict.fromkeys(matrix.linear.source for matrix in matrices.values()):
        reading = [one for one in matrices.values() if one.linear.source == source]
        offset = _offset(ranges[source])
        reach = np.maximum(ranges[source].highest - offset, offset - ranges[source].lowest)
        scale = _scale(reach, reading)
        for matrix in reading:
            matrix.rows = matrix.rows * scale
        free = not offset and _divide_in_producer(graph, source, scale, matrices, len(reading))
        value = source if free else _divide(graph, source, scale, offset)
        smoothed[source] = Smoothed(value, offset or None)
    return smoothed


def _offset(found: Range) -> float:
    lowest, highest = float(found.lowest.min()), float(found.highest.max())
    return lowest if -lowest < _ONE_SIDED * highest else 0.0


def _scale(reach: Floats, matrices: Sequence[Matrix]) -> Floats:
    weight = np.max([np.abs(matrix.values()).max(axis=1) for matrix in matrices], axis=0)
    used = (reach > 0) & (weight > 0)  # a channel of zeros has nothing to balance
    scale = np.ones_like(reach)
    scale[used] = np.sqrt(reach[used] / weight[used])
    return scale


def _divide_in_producer(
    graph: Graph, source: str, scale: Floats, matrices: Mapping[str, Matrix], reading: int
) -> bool:
    """Let the producer of `source` divide it, if it can and has no other reader."""
    maker = graph.maker[source]
    if len(graph.readers[source]) != reading:
        return False
    if maker.op_type in _NORMS:
        _divide_norm(graph, maker, scale)
        return True
    factors = maker.input if maker.op_type == "Mul" else ()
    for name in factors:
        if name in matrices and len(graph.readers[name]) == 1:
            matrices[name].columns = matrices[name].columns / scale
            return True
    return False


def _divide_norm(graph: Graph, norm: NodeProto, scale: Floats) -> None:
    """Divide gain and bias; as new tensors, since equal ones may be shared between norms."""
    for position in range(1, len(norm.input)):
        divided = graph.array(norm.input[position]) / scale
        name = f"{norm.output[0]}.smooth.{position}"
        norm.input[position] = graph.add_tensor(name, divided, np.float32)


def _divide(graph: Graph, source: str, scale: Floats, offset: float) -> str:
    inverse = graph.add_tensor(f"{source}.smoothing", 1 / scale, np.float32)
    moved = source
    if offset:
        moved = f"{source}.moved"
        lowest = graph.add_tensor(f"{source}.offset", offset, np.float32)
        graph.insert(source, [node("Sub", [source, lowest], moved)])
    graph.insert(source, [node("Mul", [moved, inverse], f"{source}.smooth")])
    return f"{source}.smooth"
