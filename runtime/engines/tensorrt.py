"""TensorRT plans, run natively: one context per optimisation profile, pinned buffers, one stream.

Uses the part of the Python API that TensorRT 10 and 11 share (docs.nvidia.com/deeplearning/
tensorrt/latest/_static/python-api); names and signatures were checked against the bindings
10.16.1.11 and 11.4.0.106. Calls never overlap, so the contexts share one block of scratch memory.
It grows with the shapes that occur, not to the largest possible one.
"""

import logging
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from runtime.engines import Arrays, EngineSetup, Outputs
from runtime.engines.cudart import Cuda, CudaFailed, host_array, open_cuda
from runtime.engines.gpu_errors import classify_gpu_error
from runtime.engines.gpu_use import GPU_USE
from runtime.errors import EngineError, EngineUnavailable
from runtime.shapes import Shape, ShapeRange, cheapest, longest, needed

_log = logging.getLogger(__name__)

_OLDEST = 10
_MESSAGES_KEPT = 8

# The shapes of all inputs of a call.
_Shapes = tuple[tuple[int, ...], ...]


class TensorRtEngine:
    """One plan on the first visible GPU."""

    name = "tensorrt"
    device = "cuda:0"
    # The calls share buffers and scratch memory.
    lanes = 1

    def __init__(self, trt: Any, cuda: Cuda, plan: Any, log: Any, setup: EngineSetup) -> None:
        self._trt, self._cuda, self._plan, self._log = trt, cuda, plan, log
        self.version = str(trt.__version__)
        names = [plan.get_tensor_name(i) for i in range(plan.num_io_tensors)]
        is_input = {n: plan.get_tensor_mode(n) == trt.TensorIOMode.INPUT for n in names}
        self.input_names = [name for name in names if is_input[name]]
        self.output_names = [name for name in names if not is_input[name]]
        self._types = {name: np.dtype(trt.nptype(plan.get_tensor_dtype(name))) for name in names}
        # The input that says a call's shape: of a text plan tokens, of a tower its only one.
        ranks = {name: len(plan.get_tensor_shape(name)) for name in self.input_names}
        self._measured = next((n for n, rank in ranks.items() if rank == 2), self.input_names[0])
        ranges = [self._range(i) for i in range(plan.num_optimization_profiles)]
        bound = min(setup.max_tokens, longest(ranges) or setup.max_tokens)
        kept = needed(ranges, bound)
        self.shapes = tuple(ranges[place] for place in kept)
        self._stream = cuda.create_stream()
        self._memory_bytes = setup.memory_bytes
        self._scratch = _Block(cuda.allocate, cuda.free)
        self._device = {name: _Block(cuda.allocate, cuda.free) for name in names}
        self._pinned = {name: _Block(cuda.allocate_pinned, cuda.free_pinned) for name in names}
        # For each context: the shapes it is prepared for, and the scratch memory of these.
        self._laid_out: dict[int, tuple[_Shapes, int]] = {}
        self._contexts = [self._context(place) for place in kept]

    def shape_for(self, rows: int, tokens: int) -> Shape:
        """See Engine: a profile computes no shape below its smallest."""
        place = cheapest(self.shapes, rows, tokens)
        return (rows, tokens) if place is None else self.shapes[place].padded(rows, tokens)

    def run(self, inputs: Arrays) -> Outputs:
        """All outputs of the plan, by name. Raises as Engine says."""
        rows, tokens = _shape_of(inputs[self._measured].shape)
        place = cheapest(self.shapes, rows, tokens)
        if place is None:
            raise EngineError(
                f"tensorrt: found a call of {rows} rows and {tokens} tokens, wanted one within "
                f"{[(s.batch, s.sequence) for s in self.shapes]} (least, best, most)"
            )
        try:
            with GPU_USE.shared():
                return self._execute(place, inputs)
        except CudaFailed as error:
            raise classify_gpu_error("tensorrt", error) from error

    def close(self) -> None:
        """Free contexts, plan, buffers and stream, in this order. May be called again."""
        if self._plan is None:
            return
        with GPU_USE.shared():
            self._contexts.clear()
            self._plan = None
            for block in (self._scratch, *self._device.values(), *self._pinned.values()):
                block.give_back()
            self._cuda.destroy_stream(self._stream)

    def _execute(self, place: int, inputs: Arrays) -> Outputs:
        context, stream = self._contexts[place], self._stream
        for name in self.input_names:
            self._bind_input(context, name, inputs[name])
        self._give_scratch(context, place, tuple(inputs[name].shape for name in self.input_names))
        sizes = {name: self._bind_output(context, name) for name in self.output_names}
        self._check(context.execute_async_v3(stream), "execute_async_v3")
        for name, (_, size) in sizes.items():
            self._cuda.to_host(self._pinned[name].address, self._device[name].address, size, stream)
        self._cuda.wait(stream)
        return {
            # Copied, because the next call reuses the pinned memory.
            name: host_array(self._pinned[name].address, found, self._types[name]).copy()
            for name, (found, _) in sizes.items()
        }

    def _bind_input(self, context: Any, name: str, given: np.ndarray) -> None:
        array = np.ascontiguousarray(given, dtype=self._types[name])
        device = self._device[name].of_size(array.nbytes)
        if array.nbytes:  # images, which a call may have none of
            pinned = self._pinned[name].of_size(array.nbytes)
            host_array(pinned, array.shape, array.dtype)[...] = array
            self._cuda.to_device(device, pinned, array.nbytes, self._stream)
        self._check(context.set_input_shape(name, tuple(array.shape)), f"set_input_shape {name}")
        self._check(context.set_tensor_address(name, device), f"set_tensor_address {name}")

    def _bind_output(self, context: Any, name: str) -> tuple[tuple[int, ...], int]:
        """Bind an output. Returns its shape and its size in bytes, which follow from the inputs."""
        shape = tuple(int(size) for size in context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise classify_gpu_error(self.name, f"output {name} has the unknown shape {shape}")
        size = int(np.prod(shape)) * self._types[name].itemsize
        self._pinned[name].of_size(size)
        device = self._device[name].of_size(size)
        self._check(context.set_tensor_address(name, device), f"set_tensor_address {name}")
        return shape, size

    def _give_scratch(self, context: Any, place: int, shapes: _Shapes) -> None:
        """Give the context the shared block, large enough for inputs of these shapes.

        Asking for the size also makes TensorRT lay out the block, so it must be asked whenever a
        shape changes.
        """
        known, wanted = self._laid_out.get(place, (None, 0))
        if known != shapes:
            wanted = int(context.update_device_memory_size_for_shapes())
            self._laid_out[place] = (shapes, wanted)
        if self._memory_bytes is not None and wanted > self._memory_bytes:
            raise classify_gpu_error(
                self.name,
                f"out of memory: the call needs {wanted} bytes of scratch memory, "
                f"RERANK_GPU_MEMORY_BYTES allows {self._memory_bytes}",
            )
        address = self._scratch.of_size(wanted)
        context.set_device_memory(address, self._scratch.size_bytes)

    def _context(self, place: int) -> Any:
        """Create a context for the plan's profile `place`, without scratch memory."""
        context = self._plan.create_execution_context(
            self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if context is None:
            raise classify_gpu_error(self.name, self._log.take_errors("no execution context"))
        done = context.set_optimization_profile_async(place, self._stream)
        self._check(done, f"set_optimization_profile_async {place}")
        self._cuda.wait(self._stream)
        return context

    def _range(self, place: int) -> ShapeRange:
        """The shapes of calls that the plan's profile `place` takes."""
        found = self._plan.get_tensor_profile_shape(self._measured, place)
        least, best, most = (_shape_of(tuple(map(int, dims))) for dims in found)
        return ShapeRange(*zip(least, best, most, strict=True))

    def _check(self, done: bool, call: str) -> None:
        """Raise if a call returned False; TensorRT's logger has the reason."""
        if not done:
            raise classify_gpu_error(self.name, self._log.take_errors(f"{call} failed"))


def _shape_of(dims: tuple[int, ...]) -> Shape:
    """The shape of a call whose input has these dimensions: [rows, tokens], or a tower's tiles,
    which are rows of one token."""
    return (dims[0], dims[1]) if len(dims) == 2 else (dims[0], 1)


class _Block:
    """Memory that grows to the largest requested size."""

    def __init__(self, allocate: Any, free: Any) -> None:
        self._allocate, self._free = allocate, free
        self.address, self.size_bytes = 0, 0

    def of_size(self, size_bytes: int) -> int:
        """The address of at least `size_bytes`; the old content may be lost. Never null: TensorRT
        wants an address for an empty array as well."""
        size_bytes = max(1, size_bytes)
        if size_bytes > self.size_bytes:
            self.give_back()
            self.address = self._allocate(size_bytes)
            self.size_bytes = size_bytes
        return self.address

    def give_back(self) -> None:
        """Free it; it can grow again."""
        address, self.address, self.size_bytes = self.address, 0, 0
        if address:
            self._free(address)


def open_engine(name: str, plan_file: Path, setup: EngineSetup) -> TensorRtEngine:  # noqa: ARG001
    """Load the plan. Raises EngineUnavailable when TensorRT or the GPU is missing, EngineError when
    TensorRT refuses the plan."""
    return load_plan(_bindings(), open_cuda(), plan_file, setup)


def tensorrt_version() -> str:
    """The installed version of TensorRT, like "10.16.1.11". Raises EngineUnavailable."""
    return str(_bindings().__version__)


def _bindings() -> Any:
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise EngineUnavailable(
            f"engine tensorrt needs the package tensorrt with its libraries (found: {error}); "
            "install TensorRT 10 or 11 for CUDA 13, or choose the target cuda-fp16"
        ) from error
    if int(tensorrt.__version__.split(".")[0]) < _OLDEST:
        raise EngineUnavailable(
            f"engine tensorrt found TensorRT {tensorrt.__version__}, wanted {_OLDEST} or newer"
        )
    return tensorrt


def load_plan(trt: Any, cuda: Cuda, plan_file: Path, setup: EngineSetup) -> TensorRtEngine:
    """`open_engine` with TensorRT's bindings and the CUDA runtime as arguments."""
    log = _logger(trt)
    runtime = trt.Runtime(log)
    runtime.engine_host_code_allowed = setup.host_code
    # Memory-mapped: a plan is as large as its weights and is read once.
    with (
        plan_file.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        plan = runtime.deserialize_cuda_engine(content)
    if plan is None:
        raise EngineError(
            f"tensorrt {trt.__version__} cannot load {plan_file.name}: "
            f"{log.take_errors('it was built for another machine or version')}; build it here with "
            "`rerank-export build`"
        )
    try:
        return TensorRtEngine(trt, cuda, plan, log, setup)
    except CudaFailed as error:
        raise classify_gpu_error("tensorrt", error) from error
    except TypeError as error:  # of nptype, for types that numpy does not have
        raise EngineError(
            f"tensorrt: {plan_file.name} has an input or output of an unknown type; "
            "its inputs are to be int64 or float32 and its outputs float32"
        ) from error


def _logger(trt: Any) -> Any:
    """A TensorRT logger that forwards to Python's logging and keeps the last errors."""
    severities = trt.ILogger.Severity
    levels = {
        severities.INTERNAL_ERROR: logging.ERROR,
        severities.ERROR: logging.ERROR,
        severities.WARNING: logging.WARNING,
        severities.INFO: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]  # a class of the bindings
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity)
            if level is None:
                return
            if level == logging.ERROR:
                self.errors = [*self.errors, msg][-_MESSAGES_KEPT:]
            _log.log(level, "TensorRT: %s", msg)

        def take_errors(self, default: str) -> str:
            """The errors since the last call, which it clears; `default` without any."""
            found, self.errors = "; ".join(self.errors), []
            return found or default

    return Logger()
