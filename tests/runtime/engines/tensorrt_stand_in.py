"""Stand-ins for TensorRT's bindings and the CUDA runtime, over ordinary memory.

Names, arguments and results of the bindings are those of tensorrt-cu13-bindings 10.16.1.11 and
11.4.0.106 (docs.nvidia.com/deeplearning/tensorrt, Python API); what a call would do on a GPU is
done on memory that the stand-in of libcudart handed out. The plan computes
logit = sum(id × mask) / 100 a row.
"""

import ctypes
from enum import Enum
from typing import Any

import numpy as np


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


class FakeContext:
    """IExecutionContext of one profile; notes what is asked of it."""

    def __init__(self, plan: "FakePlan") -> None:
        self.plan = plan
        self.profile = -1
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.scratch = (0, 0)
        self.laid_out_for: tuple[int, ...] = ()

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert isinstance(shape, tuple)
        least, _, most = self.plan.profiles[self.profile]
        fits = all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
        if not fits:
            self.plan.log.log(ILogger.Severity.ERROR, f"{name}: shape {shape} is out of range")
        self.shapes[name] = shape
        return fits

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        self.laid_out_for = self.shapes["input_ids"]
        rows, tokens = self.shapes["input_ids"]
        return rows * tokens * self.plan.scratch_per_token

    def set_device_memory(self, memory: int, size: int) -> None:
        self.scratch = (memory, size)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shapes["input_ids"][0], 1)

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == 77
        rows, tokens = self.shapes["input_ids"]
        needed = rows * tokens * self.plan.scratch_per_token
        assert self.scratch[1] >= needed
        assert self.laid_out_for == (rows, tokens)
        self.plan.computed.append((self.profile, (rows, tokens)))
        if self.plan.complaint:
            self.plan.log.log(ILogger.Severity.ERROR, self.plan.complaint)
            return False
        arrays = {
            name: np.frombuffer(
                (ctypes.c_char * (rows * tokens * 8)).from_address(self.addresses[name]), np.int64
            ).reshape(rows, tokens)
            for name in ("input_ids", "attention_mask")
        }
        logits = (arrays["input_ids"] * arrays["attention_mask"]).sum(1).astype(np.float32) / 100
        ctypes.memmove(self.addresses["logits"], logits.tobytes(), logits.nbytes)
        return True


class FakePlan:
    """ICudaEngine with inputs input_ids and attention_mask and the output logits."""

    names = ("input_ids", "logits", "attention_mask")
    num_io_tensors = len(names)
    scratch_per_token = 16

    def __init__(self, log: Any, profiles: list[tuple[tuple[int, int], ...]]) -> None:
        self.log, self.profiles = log, profiles
        self.num_optimization_profiles = len(profiles)
        self.contexts: list[FakeContext] = []
        self.computed: list[tuple[int, tuple[int, int]]] = []
        self.complaint = ""

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.OUTPUT if name == "logits" else TensorIOMode.INPUT

    def get_tensor_dtype(self, name: str) -> str:
        return "FLOAT" if name == "logits" else "INT64"

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, int]]:
        return list(self.profiles[profile_index])

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> FakeContext | None:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]


class FakeTensorRt:
    """The module `tensorrt`; `plans` are what was loaded, None for content that it refuses."""

    __version__ = "10.16.1.11"
    ILogger = ILogger
    TensorIOMode = TensorIOMode
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy

    def __init__(self, profiles: list[tuple[tuple[int, int], ...]]) -> None:
        self.profiles = profiles
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
                if bytes(memoryview(serialized_engine)[:4]) != b"plan":
                    logger.log(ILogger.Severity.ERROR, "the plan file has a wrong magic tag")  # type: ignore[attr-defined]
                    return None
                outer.plans.append(FakePlan(logger, outer.profiles))
                return outer.plans[-1]

        return Runtime()
