"""Compiling an ONNX graph into a TensorRT plan, on the machine and for the GPU that will run it.

Written to the Python API of TensorRT 10.15 and later and of 11 (docs.nvidia.com/deeplearning/
tensorrt/latest/_static/python-api); `make check-tensorrt` compares every name and signature with
the bindings 10.16.1.11 and 11.4.0.106. The network is strongly typed, TensorRT 11's only mode: each
value has the type that the graph gives it. Needs neither PyTorch nor the package onnx, so that a
serving image can build.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import PlanFailed
from exporter.tensorrt_attention import attentions, unfused
from exporter.tensorrt_operators import Version, first_version, numbers
from runtime.errors import EngineUnavailable
from runtime.gpu import Gpu, find_gpu
from runtime.manifest import PlanHardware
from runtime.outputs import write_atomic
from runtime.profile import Shapes, TargetProfile
from runtime.vision.layout import PIXELS_INPUT

# A shape of one input, and its least, best and most in an optimisation profile.
Dims = tuple[int, ...]
Range = tuple[Dims, Dims, Dims]

# The oldest whose bindings have all that is called here; graphs may need a newer one.
OLDEST = "10.15"
# The first that takes our graphs whose attention is told lengths; an older one would take what they
# mean in other operators, with a mask.
OLDEST_FOR_LENGTHS = "11.1"
# The least compute capability whose tensor cores multiply fp8.
_FP8_CAPABILITY = (8, 9)
_MAX_ERRORS = 8
_LOG_EVERY_S = 5.0


@dataclass(frozen=True)
class Machine:
    """The module of TensorRT's bindings, and the GPU that it compiles for."""

    trt: Any
    gpu: Gpu

    def facts(self) -> PlanHardware:
        """What the manifest records."""
        return PlanHardware(
            gpu=self.gpu.name,
            compute_capability=self.gpu.compute_capability,
            cpu_architecture=self.gpu.cpu_architecture,
            driver=self.gpu.driver,
            tensorrt=str(self.trt.__version__),
        )


def this_machine(target: TargetProfile) -> Machine:
    """TensorRT and the GPU here; raises EngineUnavailable with what `target` needs."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise EngineUnavailable(
            f"building a plan needs the package tensorrt with its libraries (found: {error}); "
            "install TensorRT 10.15 or newer for CUDA 13 from NVIDIA"
        ) from error
    gpu = find_gpu()
    if gpu is None:
        raise EngineUnavailable(
            "building a plan found no NVIDIA GPU, wanted the one that will run it; build on that "
            "machine"
        )
    machine = Machine(tensorrt, gpu)
    refuse_machine(machine, target)
    return machine


def refuse_machine(machine: Machine, target: TargetProfile) -> None:
    """Raise EngineUnavailable when TensorRT is too old, or the GPU cannot compute the precision."""
    version = str(machine.trt.__version__)
    oldest = OLDEST_FOR_LENGTHS if target.attention == "lengths" else OLDEST
    if numbers(version)[:2] < numbers(oldest):
        how = "install a newer one"
        if oldest == OLDEST_FOR_LENGTHS:
            how += (
                " (the extra tensorrt and the GPU image have TensorRT 10: "
                f"pip install 'tensorrt-cu13>={oldest},<12' replaces it, for building and serving)"
            )
        raise EngineUnavailable(
            f"found TensorRT {version}, wanted {oldest} or newer for target {target.name}; {how}, "
            "or choose tensorrt-fp16"
        )
    capability = machine.gpu.compute_capability
    if target.precision == "fp8" and numbers(capability) < _FP8_CAPABILITY:
        raise EngineUnavailable(
            f"target {target.name} needs compute capability 8.9, found {machine.gpu.name} with "
            f"{capability}; choose tensorrt-fp16"
        )


def compile_plan(
    machine: Machine,
    graph: Path,
    plan: Path,
    target: TargetProfile,
    *,
    timing_cache: Path | None,
    log: Callable[[str], None],
) -> None:
    """Write `plan` from the ONNX file `graph`, of a text model or a vision tower, for every shape
    that `target` names.

    Measurements of kernels are taken from `timing_cache` and added to it; one of another GPU or
    version, which may be any file of the user's, is left as it is. `log` gets the
    progress of the build. Raises PlanFailed with the node that TensorRT cannot parse, or with
    its errors.
    """
    trt = machine.trt
    logger = _logger(trt)
    builder = trt.Builder(logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    _parse(trt, network, logger, graph)
    if target.precision in ("fp8", "int8"):
        _require_rounding(trt, network, target)
    config = builder.create_builder_config()
    # Float32 is there for exactness: norms, pooling and head must not be rounded to 10 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    # So that the inspector can tell which kernels compute attention; it costs no time in a call.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if target.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    _add_profiles(builder, network, config, target)
    cached = timing_cache is not None and _use_timing_cache(config, timing_cache, log)
    monitor = _monitor(trt, log)
    config.progress_monitor = monitor
    serialized = builder.build_serialized_network(network, config)
    found = attentions(trt, network)
    in_parts = serialized is None and bool(found) and not monitor.interrupted
    if in_parts:
        log(
            f"TensorRT could not build {plan.name} with fused attention only, in all {len(found)} "
            f"layers ({logger.take_errors()}); attention is compiled again in parts, which are "
            "slower and store the scores of all pairs of tokens"
        )
        for attention in found:
            attention.decomposable = True
        serialized = builder.build_serialized_network(network, config)
    if monitor.interrupted:
        raise KeyboardInterrupt
    if serialized is None:
        reason = logger.take_errors()
        raise PlanFailed(f"TensorRT {trt.__version__} could not build {plan.name}: {reason}")
    if in_parts:
        names = [attention.name for attention in found]
        log(unfused(trt, logger, serialized, names, host_code=target.version_compatible))
    plan.write_bytes(serialized)
    if timing_cache is not None and cached:
        write_atomic(timing_cache, bytes(config.get_timing_cache().serialize()))


def _parse(trt: Any, network: Any, logger: Any, graph: Path) -> None:
    """Weights beside the graph are found by its path."""
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(graph)):
        return
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    details = "; ".join(
        f"node {e.node()} {e.node_name()!r} ({e.node_operator()}): {e.desc()}" for e in errors
    )
    raise PlanFailed(
        f"TensorRT {trt.__version__} cannot parse {graph.name}: {details or logger.take_errors()}; "
        f"{_advice({e.node_operator() for e in errors}, numbers(trt.__version__))}"
    )


def _advice(operators: set[str], installed: Version) -> str:
    """What helps a graph of which these operators were not parsed."""
    first = first_version(operators)
    if operators and first is not None and numbers(first) > installed[:2]:
        return f"wanted TensorRT {first} or newer, whose parser takes them; install that"
    return "use a newer TensorRT, or another target"


def _require_rounding(trt: Any, network: Any, target: TargetProfile) -> None:
    """A graph without Q/DQ would run in half precision under another name."""
    kinds = {network.get_layer(i).type for i in range(network.num_layers)}
    if not {trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE} <= kinds:
        raise PlanFailed(
            f"found no Q/DQ in the graph, wanted {target.precision} around its linear layers; "
            f"export the checkpoint with --target {target.name} again"
        )


def profile_ranges(inputs: Mapping[str, Dims], target: TargetProfile) -> list[dict[str, Range]]:
    """The optimisation profiles of a graph with these `inputs`, whose dynamic sizes are -1: the
    shapes of each input by its name.

    A tower's is as many tiles as `target` says. A text graph has one for each of the target's
    shapes; images that stand in its rows bring from no tile to as many as fit into their tokens.
    """
    if PIXELS_INPUT in inputs:
        _, *tile = inputs[PIXELS_INPUT]
        assert target.tiles is not None
        least, best, most = ((tiles, *tile) for tiles in target.tiles)
        return [{PIXELS_INPUT: (least, best, most)}]
    return [
        {name: _text_range(dims, shapes) for name, dims in inputs.items()}
        for shapes in target.shapes
    ]


def _text_range(dims: Dims, shapes: Shapes) -> Range:
    """Of an input [rows, tokens], or of image embeddings [tiles, tokens of a tile, components]."""
    if len(dims) == 2:
        least, best, most = zip(shapes.batch, shapes.sequence, strict=True)
        return least, best, most
    _, tile_tokens, components = dims
    room = shapes.batch[2] * shapes.sequence[2] // tile_tokens
    tile = tile_tokens, components
    return (0, *tile), (min(shapes.batch[1], room), *tile), (room, *tile)


def _add_profiles(builder: Any, network: Any, config: Any, target: TargetProfile) -> None:
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    inputs = {tensor.name: tuple(map(int, tensor.shape)) for tensor in tensors}
    for ranges in profile_ranges(inputs, target):
        profile = builder.create_optimization_profile()
        for name, shapes in ranges.items():
            profile.set_shape(name, *shapes)
        if config.add_optimization_profile(profile) < 0:
            listed = ", ".join(f"{name} {list(shapes)}" for name, shapes in ranges.items())
            raise PlanFailed(
                f"TensorRT refuses the shapes {listed} (least, best, most) of target "
                f"{target.name}; correct its [[shapes]] or tiles"
            )


def _use_timing_cache(config: Any, path: Path, log: Callable[[str], None]) -> bool:
    """Give the builder the cache in `path`, or an empty one if it does not fit.

    Returns whether it fit, so that `path` may be overwritten."""
    content = path.read_bytes() if path.exists() else b""
    if _takes(config, content):
        return True
    log(
        f"{path} is the timing cache of another GPU or version, or none, and is left as it is; to "
        "keep this build's measurements, name another file"
    )
    if not _takes(config, b""):
        raise PlanFailed("TensorRT refuses even an empty timing cache; leave --timing-cache out")
    return False


def _takes(config: Any, content: bytes) -> bool:
    cache = config.create_timing_cache(content)
    return cache is not None and config.set_timing_cache(cache, False)


def _monitor(trt: Any, log: Callable[[str], None]) -> Any:
    """TensorRT's progress monitor: logs the step of the outermost phase, at most once in 5 s.

    TensorRT calls it from threads of its own; an exception there would be lost.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # a class of the bindings
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self._lock = threading.Lock()
            self._steps: dict[str, int] = {}
            self._logged_at = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                if not parent_phase:
                    self._steps[phase_name] = num_steps
                    log(f"{phase_name}: {num_steps} steps")

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                with self._lock:
                    now = time.monotonic()
                    steps = self._steps.get(phase_name)
                    if steps and now - self._logged_at >= _LOG_EVERY_S:
                        self._logged_at = now
                        log(f"{phase_name}: step {step + 1} of {steps}")
            except KeyboardInterrupt:
                self.interrupted = True
            return not self.interrupted  # False ends the build

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._steps.pop(phase_name, None)

    return Monitor()


def _logger(trt: Any) -> Any:
    """TensorRT's logger; keeps the last errors for exceptions."""
    error_severities = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]  # a class of the bindings
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in error_severities:
                self._errors = [*self._errors, msg][-_MAX_ERRORS:]

        def take_errors(self) -> str:
            """The last errors, which it forgets."""
            found, self._errors = self._errors, []
            return "; ".join(found) or "it gave no reason"

    return Logger()
