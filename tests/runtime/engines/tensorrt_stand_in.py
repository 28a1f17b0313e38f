"""Stand-ins for TensorRT's bindings and the CUDA runtime, over ordinary memory.

Names, arguments and results of the bindings are those of tensorrt-cu13-bindings 10.16.1.11 and
11.4.0.106 (docs.nvidia.com/deeplearning/tensorrt, Python API); what a call would do on a GPU is
done on memory that the stand-in of libcudart handed out. A plan computes
logit = sum(id × mask) / 100 a row; one that the exporter's stand-in built, its graph by ONNX
Runtime.
"""

import ctypes
import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
import onnxruntime

MAGIC = b"plan"
Dims = tuple[int, ...]
# Least, best and most; of all inputs, or of each by its name.
Range = tuple[Dims, Dims, Dims]
Profile = Range | Mapping[str, Range]


class FakeCudart:
    """libcudart.so as ctypes shows it: results by reference, 0 for success."""

    class _Text:
        restype: Any = None

        def __call__(self, code: int) -> bytes:
            return {2: b"out of memory", 700: b"an illegal memory access was encountered"}[code]

    def __init__(self, memory_bytes: int = 1 << 30) -> None:
        self.free_bytes = memory_bytes
        self.held: dict[int, Any] = {}
        self.calls: list[str] = []
        self.cudaGetErrorString = FakeCudart._Text()
        self.wait_status = 0

    def _allocate(self, found: Any, size: Any) -> int:
        if size.value > self.free_bytes:
            return 2
        self.free_bytes -= size.value
        memory = ctypes.create_string_buffer(max(1, size.value))
        found._obj.value = ctypes.addressof(memory)
        self.held[ctypes.addressof(memory)] = memory
        return 0

    def _free(self, address: Any) -> int:
        if address.value:
            self.free_bytes += len(self.held.pop(address.value))
        return 0

    cudaMalloc = cudaMallocHost = _allocate  # noqa: N815
    cudaFree = cudaFreeHost = _free  # noqa: N815

    def cudaStreamCreateWithFlags(self, found: Any, flags: Any) -> int:  # noqa: N802
        assert flags.value == 1
        found._obj.value = 77
        return 0

    def cudaStreamDestroy(self, stream: Any) -> int:  # noqa: N802
        self.calls.append("destroy")
        return 0

    def cudaMemcpyAsync(self, to: Any, source: Any, size: Any, kind: Any, stream: Any) -> int:  # noqa: N802
        assert stream.value == 77
        assert kind.value in (1, 2)
        ctypes.memmove(to.value, source.value, size.value)
        return 0

    def cudaStreamSynchronize(self, stream: Any) -> int:  # noqa: N802
        return self.wait_status

    def cudaGetLastError(self) -> int:  # noqa: N802
        return 0


class TensorIOMode(Enum):
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(Enum):
    USER_MANAGED = 2


class ILogger:
    class Severity(Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self) -> None:
        pass


class Sums:
    """What a plan computes; `dims` are the sizes of inputs and outputs, names where they vary."""

    dims: Mapping[str, Sequence[str | int]] = {
        "input_ids": ("batch", "sequence"),
        "logits": ("batch", 1),
        "attention_mask": ("batch", "sequence"),
    }
    types: Mapping[str, str] = {"input_ids": "INT64", "logits": "FLOAT", "attention_mask": "INT64"}
    outputs: Sequence[str] = ("logits",)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        products = inputs["input_ids"] * inputs["attention_mask"]
        return {"logits": products.sum(1, keepdims=True).astype(np.float32) / 100}


class Graph(Sums):
    """An ONNX graph."""

    def __init__(self, content: bytes) -> None:
        self._session = onnxruntime.InferenceSession(content)
        outputs = self._session.get_outputs()
        every = [*self._session.get_inputs(), *outputs]
        self.dims = {one.name: one.shape for one in every}
        kinds = {"tensor(int64)": "INT64", "tensor(float)": "FLOAT"}
        self.types = {one.name: kinds[one.type] for one in every}
        self.outputs = [one.name for one in outputs]

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        return dict(zip(self.outputs, self._session.run(None, inputs), strict=True))


class FakeContext:
    """IExecutionContext of one profile; notes what is asked of it."""

    def __init__(self, plan: "FakePlan") -> None:
        self.plan = plan
        self.profile = -1
        self.shapes: dict[str, Dims] = {}
        self.addresses: dict[str, int] = {}
        self.scratch = (0, 0)
        self.laid_out_for: dict[str, Dims] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: Dims) -> bool:
        assert isinstance(shape, tuple)
        least, _, most = self.plan.get_tensor_profile_shape(name, self.profile)
        fits = all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
        if not fits:
            self.plan.log.log(ILogger.Severity.ERROR, f"{name}: shape {shape} is out of range")
        self.shapes[name] = shape
        return fits

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        self.laid_out_for = dict(self.shapes)
        return self._needed()

    def set_device_memory(self, memory: int, size: int) -> None:
        self.scratch = (memory, size)

    def get_tensor_shape(self, name: str) -> Dims:
        """Of an output: what the inputs' shapes make of it."""
        sizes: dict[str | int, int] = {}
        for one, shape in self.shapes.items():
            sizes |= zip(self.plan.model.dims[one], shape, strict=True)
        return tuple(sizes.get(dim, dim) for dim in self.plan.model.dims[name])  # type: ignore[misc]

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == 77
        assert self.scratch[1] >= self._needed()
        assert self.laid_out_for == self.shapes
        assert all(self.addresses.values())
        self.plan.computed.append((self.profile, next(iter(self.shapes.values()))))
        if self.plan.complaint:
            self.plan.log.log(ILogger.Severity.ERROR, self.plan.complaint)
            return False
        inputs = {name: self._read(name, shape) for name, shape in self.shapes.items()}
        for name, found in self.plan.model.run(inputs).items():
            assert found.shape == self.get_tensor_shape(name)
            ctypes.memmove(self.addresses[name], found.tobytes(), found.nbytes)
        return True

    def _needed(self) -> int:
        first = next(iter(self.shapes.values()))
        return int(np.prod(first)) * self.plan.scratch_per_token

    def _read(self, name: str, shape: Dims) -> np.ndarray:
        kind = np.dtype(FakeTensorRt.nptype(self.plan.get_tensor_dtype(name)))
        size = int(np.prod(shape)) * kind.itemsize
        return np.frombuffer(ctypes.string_at(self.addresses[name], size), kind).reshape(shape)


class FakePlan:
    """ICudaEngine of what a `model` computes."""

    scratch_per_token = 16

    def __init__(self, log: Any, profiles: Sequence[Profile], model: Sums) -> None:
        self.log, self.profiles, self.model = log, profiles, model
        self.names = list(model.dims)
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(profiles)
        self.contexts: list[FakeContext] = []
        self.computed: list[tuple[int, Dims]] = []
        self.complaint = ""

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.OUTPUT if name in self.model.outputs else TensorIOMode.INPUT

    def get_tensor_dtype(self, name: str) -> str:
        return self.model.types[name]

    def get_tensor_shape(self, name: str) -> Dims:
        return tuple(-1 if isinstance(dim, str) else dim for dim in self.model.dims[name])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        profile = self.profiles[profile_index]
        return list(profile[name] if isinstance(profile, Mapping) else profile)

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> FakeContext | None:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]


class FakeTensorRt:
    """The module `tensorrt`; `profiles` and `model` are those of plans that nobody built, `plans`
    are what was loaded, None for content that it refuses."""

    __version__ = "10.16.1.11"
    ILogger = ILogger
    TensorIOMode = TensorIOMode
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy

    def __init__(self, profiles: Sequence[Profile] = (), model: Sums | None = None) -> None:
        self.profiles, self.model = list(profiles), model or Sums()
        self.plans: list[FakePlan] = []
        self.host_code_allowed: list[bool] = []

    @staticmethod
    def nptype(trt_type: str) -> type:
        return {"FLOAT": np.float32, "INT64": np.int64}[trt_type]

    def Runtime(self, logger: ILogger) -> Any:  # noqa: N802
        outer = self

        class Runtime:
            engine_host_code_allowed = False

            def deserialize_cuda_engine(self, serialized_engine: Any) -> FakePlan | None:
                outer.host_code_allowed.append(self.engine_host_code_allowed)
                content = bytes(memoryview(serialized_engine))
                if not content.startswith(MAGIC):
                    logger.log(ILogger.Severity.ERROR, "the plan file has a wrong magic tag")  # type: ignore[attr-defined]
                    return None
                facts, built, graph = content.removeprefix(MAGIC).partition(b"\n")
                profiles, model = (
                    (json.loads(facts), Graph(graph)) if built else (outer.profiles, outer.model)
                )
                outer.plans.append(FakePlan(logger, profiles, model))
                return outer.plans[-1]

        return Runtime()
