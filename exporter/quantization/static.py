"""fp8 and int8 for TensorRT: Q/DQ around every linear layer of a half-precision graph.

Activations have one scale a value, measured on real texts, because TensorRT folds only constant
scales into its kernels; int8 weights have one a column, fp8 weights one a matrix, whose exponents
carry the rest (docs.nvidia.com/deeplearning/tensorrt, "Working with Quantized Types"). Everything
else keeps the type that the half-precision graph gives it. The scales are in the type of what they
round, as a strongly typed network demands.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto

from exporter.errors import QuantizationFailed
from exporter.onnx_file import save_graph
from exporter.quantization.calibration import Range, watch
from exporter.quantization.graph import Floats, Graph, Linear, node
from exporter.quantization.int8 import round_columns
from exporter.quantization.step import calibration_rows
from runtime.manifest import MODEL_FILE, Manifest
from runtime.profile import Precision


@dataclass(frozen=True)
class _Kind:
    """An eight-bit type: its numpy type, and the largest magnitude that values are scaled to."""

    dtype: npt.DTypeLike
    most: float


_KINDS: dict[Precision, _Kind] = {
    "fp8": _Kind(ml_dtypes.float8_e4m3fn, 448.0),
    "int8": _Kind(np.int8, 127.0),
}


def quantize_for_tensorrt(directory: Path, manifest: Manifest, precision: Precision) -> None:
    """Rewrite model.onnx of `directory`, a half-precision graph, in this precision.

    Raises QuantizationFailed.
    """
    path = directory / MODEL_FILE
    outline = Graph(onnx.load(path, load_external_data=False))
    texts = list(calibration_rows(directory, manifest))
    ranges = watch(directory, outline.sources(), texts).ranges
    model = onnx.load(path)
    quantize_static(model, ranges, precision)
    save_graph(model, path)


def quantize_static(model: ModelProto, ranges: Mapping[str, Range], precision: Precision) -> int:
    """Rewrite the linear layers of `model` in place and return their number.

    `ranges` are the observed ranges of the layers' sources. Raises QuantizationFailed when no
    Q/DQ is left at the end.
    """
    kind = _KINDS[precision]
    graph = Graph(model)
    linears = graph.linears()
    for source in graph.sources():
        _round_source(graph, source, ranges[source], kind, _dtype_at(graph, linears, source))
    for linear in linears:
        _round_weight(graph, linear, kind, precision)
    graph.finish()
    _require_quantized(model, len(linears))
    return len(linears)


def _dtype_at(graph: Graph, linears: list[Linear], source: str) -> npt.DTypeLike:
    """The type of a source, which is that of the weights it meets."""
    return graph.array(next(one.weight for one in linears if one.source == source)).dtype


def _round_source(
    graph: Graph, source: str, found: Range, kind: _Kind, dtype: npt.DTypeLike
) -> None:
    largest = max(float(np.abs(found.lowest).max()), float(np.abs(found.highest).max()))
    scale = graph.add_tensor(f"{source}.scale", _step(largest, kind, dtype), dtype)
    zero = graph.add_tensor(f"{source}.zero", 0, kind.dtype)
    graph.insert_rounding(source, source, scale, zero)


def _round_weight(graph: Graph, linear: Linear, kind: _Kind, precision: Precision) -> None:
    name, original = linear.result, graph.array(linear.weight)
    matrix: Floats = original.astype(np.float32)
    if precision == "int8":
        rounded, scales = round_columns(matrix)
        steps: npt.NDArray[np.generic] = scales.astype(original.dtype)
    else:
        steps = np.asarray(_step(float(np.abs(matrix).max()), kind, original.dtype), original.dtype)
        rounded = (matrix / steps.astype(np.float32)).astype(kind.dtype)
    inputs = [
        graph.add_tensor(f"{name}.weight", rounded, kind.dtype),
        graph.add_tensor(f"{name}.scales", steps, original.dtype),
        graph.add_tensor(f"{name}.zeros", np.zeros(steps.shape), kind.dtype),
    ]
    attributes = {"axis": 1} if steps.ndim else {}
    graph.replace(
        name,
        [
            node("DequantizeLinear", inputs, f"{name}.matrix", **attributes),
            node("MatMul", [f"{linear.source}.rounded", f"{name}.matrix"], name),
        ],
    )


def _step(largest: float, kind: _Kind, dtype: npt.DTypeLike) -> float:
    """The scale for magnitudes up to `largest`; never below what `dtype` holds exactly enough."""
    least = float(ml_dtypes.finfo(dtype).smallest_normal)
    return max(largest / kind.most, least)


def _require_quantized(model: ModelProto, layers: int) -> None:
    kinds = [one.op_type for one in model.graph.node]
    found = kinds.count("DequantizeLinear")
    if layers == 0 or found < 2 or "QuantizeLinear" not in kinds:
        raise QuantizationFailed(
            f"found {found} DequantizeLinear in the graph of {layers} linear layers, wanted Q/DQ "
            "around each; this graph would run in half precision"
        )
