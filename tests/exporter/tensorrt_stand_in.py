"""A stand-in for TensorRT's bindings: it "compiles" a graph by keeping its bytes and profiles.

Names and arguments are those of the bindings 10.16.1.11 and 11.4.0.106 that the exporter uses
(`make check-tensorrt` compares the exporter itself with them). What is built is run by the
runtime's stand-in, which computes the graph by ONNX Runtime.
"""

import json
from enum import Enum, IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx

from tests.runtime.engines.tensorrt_stand_in import MAGIC

_REFUSED = "RMSNormalization"


class ILogger:
    class Severity(Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    pass


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(Enum):
    TF32 = 1
    VERSION_COMPATIBLE = 2


class ProfilingVerbosity(Enum):
    DETAILED = 2


class LayerInformationFormat(Enum):
    JSON = 1


class ILayer:
    def __init__(self, kind: "LayerType", number: int = 0) -> None:
        self.type, self.number = kind, number


class IAttentionInputLayer(ILayer):
    """What a layer of its type is once it is taken for one; the first is `attention`."""

    @property
    def attention(self) -> Any:
        name = f"attention_{self.number}" if self.number else "attention"
        new = SimpleNamespace(decomposable=False, name=name)
        return self.__dict__.setdefault("_attention", new)


class LayerType(Enum):
    ATTENTION_INPUT = 0
    MATRIX_MULTIPLY = 1
    QUANTIZE = 2
    DEQUANTIZE = 3


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Any, Any, Any]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        self.shapes[input] = (min, opt, max)


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"+"


class Config:
    def __init__(self) -> None:
        self.flags: set[BuilderFlag] = {BuilderFlag.TF32}
        self.profiles: list[Profile] = []
        self.cache: TimingCache | None = None
        self.progress_monitor: Any = None
        self.profiling_verbosity: ProfilingVerbosity | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: Profile) -> int:
        shapes = profile.shapes.values()
        if not shapes or any(len(most) == 2 and most[0] > 1000 for _, _, most in shapes):
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache | None:
        return (
            None if serialized_timing_cache == b"broken" else TimingCache(serialized_timing_cache)
        )

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache.content.startswith(b"other GPU") and not ignore_mismatch:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self.cache


class TensorRt:
    """The module; `seen` is what it was told, `fails` what goes wrong on purpose, `inspected` what
    the inspector says of a plan."""

    ILogger = ILogger
    IProgressMonitor = IProgressMonitor
    NetworkDefinitionCreationFlag = NetworkDefinitionCreationFlag
    BuilderFlag = BuilderFlag
    LayerType = LayerType
    IAttentionInputLayer = IAttentionInputLayer
    ProfilingVerbosity = ProfilingVerbosity
    LayerInformationFormat = LayerInformationFormat

    def __init__(self, version: str = "10.16.1.11", fails: str = "") -> None:
        self.inspected: list[Any] = []
        self.layers = [LayerType.MATRIX_MULTIPLY, LayerType.ATTENTION_INPUT]
        self.__version__ = version
        self.fails = fails
        self.seen = SimpleNamespace(flags=None, config=None, layers=[])

    def Builder(self, logger: ILogger) -> Any:  # noqa: N802
        seen, fails, network = self.seen, self.fails, SimpleNamespace(graph=b"")
        attention = [kind for kind in self.layers if kind == LayerType.ATTENTION_INPUT]
        layers = seen.layers = [
            *(ILayer(kind) for kind in self.layers if kind != LayerType.ATTENTION_INPUT),
            *(ILayer(kind, number) for number, kind in enumerate(attention)),
        ]
        network.num_layers, network.get_layer = len(layers), layers.__getitem__

        def create_network(flags: int = 0) -> Any:
            seen.flags = flags
            return network

        def create_builder_config() -> Config:
            seen.config = Config()
            return seen.config

        def build_serialized_network(network: Any, config: Config) -> bytes | None:
            monitor = config.progress_monitor
            monitor.phase_start("Building", None, 2)
            monitor.phase_start("Tactics", "Building", 9)
            going = monitor.step_complete("Tactics", 0) and monitor.step_complete("Building", 0)
            monitor.phase_finish("Tactics")
            monitor.phase_finish("Building")
            if fails == "build":
                logger.log(ILogger.Severity.WARNING, "never mind")
                logger.log(ILogger.Severity.ERROR, "no kernel for this layer")
            in_parts = [
                isinstance(one, IAttentionInputLayer) and one.attention.decomposable
                for one in layers
                if one.type == LayerType.ATTENTION_INPUT
            ]
            if fails == "fusion" and not all(in_parts):
                logger.log(ILogger.Severity.ERROR, "no fused kernel for this attention")
                return None
            if fails == "build" or not going:
                return None
            profiles = [profile.shapes for profile in config.profiles]
            for shapes in profiles:
                _check_ranges(shapes, [network.get_input(i) for i in range(network.num_inputs)])
            return MAGIC + json.dumps(profiles).encode() + b"\n" + network.graph

        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=create_builder_config,
            create_optimization_profile=Profile,
            build_serialized_network=build_serialized_network,
        )

    def Runtime(self, logger: ILogger) -> Any:  # noqa: N802
        def deserialize_cuda_engine(plan: bytes) -> Any:
            self.seen.host_code = runtime.engine_host_code_allowed
            return SimpleNamespace(create_engine_inspector=lambda: inspector)

        def get_engine_information(format: LayerInformationFormat) -> str:  # noqa: A002
            return json.dumps({"Layers": self.inspected, "Bindings": []})

        inspector = SimpleNamespace(get_engine_information=get_engine_information)
        runtime = SimpleNamespace(deserialize_cuda_engine=deserialize_cuda_engine)
        return runtime

    def OnnxParser(self, network: Any, logger: ILogger) -> Any:  # noqa: N802
        def parse_from_file(model: str) -> bool:
            network.graph = Path(model).read_bytes()
            inputs = [_tensor(value) for value in onnx.load_from_string(network.graph).graph.input]
            network.num_inputs, network.get_input = len(inputs), inputs.__getitem__
            return not self.fails.startswith("parse")

        error = SimpleNamespace(
            node=lambda: 7,
            node_name=lambda: "node_rms_norm",
            node_operator=lambda: self.fails.removeprefix("parse ").replace("parse", _REFUSED),
            desc=lambda: "no importer registered",
        )
        return SimpleNamespace(
            parse_from_file=parse_from_file, num_errors=1, get_error=lambda _: error
        )


def _tensor(value: onnx.ValueInfoProto) -> Any:
    """ITensor of an input."""
    dims = value.type.tensor_type.shape.dim
    return SimpleNamespace(
        name=value.name, shape=[-1 if dim.dim_param else dim.dim_value for dim in dims]
    )


def _check_ranges(shapes: dict[str, tuple[Any, Any, Any]], inputs: list[Any]) -> None:
    """What TensorRT checks of a profile when it builds."""
    assert shapes.keys() == {tensor.name for tensor in inputs}
    for tensor in inputs:
        for size, *sizes in zip(tensor.shape, *shapes[tensor.name], strict=True):
            assert sizes == sorted(sizes)
            assert size == -1 or set(sizes) == {size}
