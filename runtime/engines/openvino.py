"""OpenVINO on the CPU, with an explicit precision.

By default OpenVINO silently computes a float32 graph in bf16 where the hardware has it. So each
precision is an engine of its own.

OpenVINO compiles kernels for every shape and caches them, hundreds of KiB a shape. So rows are
padded to a few lengths, within the padding that the target allows. Where padding is not allowed,
because scores would change, the size of the cache is bounded instead.
"""

import bisect
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from runtime.engines import Arrays, EngineSetup, Outputs
from runtime.engines.lanes import LaneEngine, Lanes
from runtime.engines.mapped_weights import MappedWeights
from runtime.engines.placement import Lane, Placement, place_here
from runtime.errors import EngineError, EngineUnavailable
from runtime.shapes import Shape
from runtime.telemetry import import_without_telemetry

# OpenVINO's message for weights that are links out of the model's directory.
_WEIGHTS_ELSEWHERE = "outside the base directory"
# The kernel cache where lengths are not rounded: some dozens of shapes. 0 would compile each time.
_KERNELS_KEPT = 256
_PRECISIONS = {"openvino-fp32": "f32", "openvino-bf16": "bf16"}


class OpenVinoEngine(LaneEngine[Any]):
    """One graph on the CPU; an OpenVINO infer request computes each call.

    Rows are padded to a few lengths, within `padding_waste` and `max_tokens` of the setup.
    `weights` are held until the first call has laid them out.
    """

    def __init__(
        self,
        name: str,
        version: str,
        compiled: Any,
        lanes: Lanes[Any],
        setup: EngineSetup,
        weights: MappedWeights[Any],
    ) -> None:
        inputs = [i.get_any_name() for i in compiled.inputs]
        outputs = [o.get_any_name() for o in compiled.outputs]
        super().__init__(name, version, inputs, outputs, lanes)
        self._lengths = _lengths(setup.padding_waste, setup.max_tokens)
        self._weights: MappedWeights[Any] | None = weights

    def shape_for(self, rows: int, tokens: int) -> Shape:
        """See Engine."""
        place = bisect.bisect_left(self._lengths, tokens)
        return rows, self._lengths[place] if place < len(self._lengths) else tokens

    def close(self) -> None:
        """See LaneEngine; the mapped weights too, if no call was made."""
        super().close()
        self._weights = None

    def _call(self, session: Any, inputs: Arrays) -> Outputs:
        weights = self._weights
        with nullcontext() if weights is None else weights.released():
            found = session.infer(dict(inputs), share_inputs=True)
        self._weights = None
        return {name: np.array(found[name]) for name in self.output_names}


def open_engine(name: str, model_file: Path, setup: EngineSetup) -> OpenVinoEngine:
    """Compile `model_file` for the CPU in the precision of engine `name`. Raises
    EngineUnavailable or EngineError."""
    try:
        openvino = import_without_telemetry("openvino")
    except ImportError as error:
        raise EngineUnavailable(
            f"engine {name} needs the package openvino; install the extra openvino"
        ) from error
    core = openvino.Core()
    precision = _PRECISIONS[name]
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and "BF16" not in able:
        raise EngineUnavailable(
            f"engine {name} needs a CPU with bf16 arithmetic (AVX512-BF16 or AMX), this one has "
            f"{', '.join(able)}; choose the target cpu-fp32 or cpu-int8"
        )
    config: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": precision}
    if not setup.padding_waste:
        config["CPU_RUNTIME_CACHE_CAPACITY"] = _KERNELS_KEPT
    placement = place_here(model_file)
    try:
        weights = MappedWeights(model_file, lambda: core.read_model(str(model_file)))
        with weights.released():
            compiled, lanes = _compile(core, weights.graph, config, placement)
    except Exception as error:
        if _WEIGHTS_ELSEWHERE in str(error):
            raise EngineUnavailable(
                f"engine {name} cannot load weights of {model_file.name} that are links out of its "
                "directory, as in the hub's cache; copy the directory with `cp -rL`, or "
                "choose a target of onnxruntime-cpu"
            ) from error
        raise EngineError(f"{name} cannot open {model_file.name}: {error}") from error
    found = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if found != precision:
        raise EngineUnavailable(f"engine {name} computes in {found}, wanted {precision}")
    return OpenVinoEngine(name, openvino.__version__, compiled, lanes, setup, weights)


def _compile(
    core: Any, graph: Any, config: Mapping[str, str | int], placement: Placement
) -> tuple[Any, Lanes[Any]]:
    """A compiled model and the lanes of `placement`. OpenVINO keeps a stream on its NUMA node by
    itself; all streams share weights."""

    def compiled(*lanes: Lane) -> Any:
        threads = {
            "NUM_STREAMS": len(lanes),
            "INFERENCE_NUM_THREADS": sum(lane.threads for lane in lanes),
        }
        return core.compile_model(graph, "CPU", {**config, **threads})

    if len(placement.lanes) == 1:
        wide = compiled(placement.alone)
        return wide, Lanes(wide.create_infer_request())
    streams = compiled(*placement.lanes)
    narrow = [streams.create_infer_request() for _ in placement.lanes]
    if placement.alone in placement.lanes:
        return streams, Lanes(narrow[0], narrow)
    return streams, Lanes(compiled(placement.alone).create_infer_request(), narrow)


def _lengths(padding: float, most: int) -> list[int]:
    """The lengths that rows are padded to, ascending, the last one `most`. Neighbours differ by at
    most the share `padding` of the longer one. Empty where rows are not padded."""
    found: list[int] = []
    length = most if padding else 0
    while length > 0:
        found.append(length)
        length -= max(1, int(length * padding))
    return found[::-1]
