"""ONNX Runtime: the CPU, CUDA and TensorRT providers, without silent fallback between them.

ONNX Runtime falls back in three ways. It skips a provider whose libraries cannot be loaded; here
that stops the start. It replaces a provider that fails during a call; here that is switched off. It
assigns operators that a provider does not support to the next one, from TensorRT to CUDA and from
CUDA to the CPU; here that stops the start if the operator is a heavy one.
"""

import contextlib
import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from runtime.cores import usable_cores
from runtime.engines import Arrays, EngineSetup, Outputs
from runtime.engines.captured import TYPES, CapturedGraphs
from runtime.engines.gpu_errors import classify_gpu_error
from runtime.engines.gpu_use import GPU_USE
from runtime.engines.lanes import LaneEngine, Lanes, open_lanes
from runtime.engines.ort_options import (
    CPU,
    CUDA,
    TENSORRT,
    compiled_shapes,
    keeps_types,
    provider_options,
)
from runtime.engines.placement import place_here
from runtime.errors import DeviceLost, EngineError, EngineUnavailable
from runtime.shapes import Shape
from runtime.telemetry import import_without_telemetry

_log = logging.getLogger(__name__)

# Best first: masks and indices that TensorRT does not support go to CUDA.
_PROVIDERS = {
    "onnxruntime-cpu": (CPU,),
    "onnxruntime-cuda": (CUDA,),
    "onnxruntime-tensorrt": (TENSORRT, CUDA),
}
_MISSING = {
    CUDA: "the libraries of CUDA 13, a driver for it, and a GPU that this onnxruntime has code for",
    TENSORRT: "libnvinfer.so.10 and libnvonnxparser.so.10 of TensorRT 10, and libcudnn.so.9, which "
    "onnxruntime's provider links, on LD_LIBRARY_PATH",
}
# What to do when a provider leaves heavy operators to another one.
_TAKES_ALL = {
    CUDA: "export the checkpoint for the target cuda-fp16",
    TENSORRT: "export the checkpoint for the target ort-tensorrt-fp16, or choose cuda-fp16",
}
# ONNX Runtime's message for missing TensorRT libraries.
_NO_TENSORRT = "Please install TensorRT libraries"
# CUDA errors after which this build can never compute: driver too old (35), no kernels for the card
# (209), mismatch of driver and library or card (803, 804; driver_types.h of CUDA).
_NO_CUDA = re.compile(
    r"CUDA failure (35|209|803|804)\b|CUDA wasn't able to be loaded"
    r"|cudaErrorNoKernelImageForDevice|no kernel image is available"
)
# ONNX Runtime's message when a kernel is the first to want cuDNN, and it cannot be loaded.
_NO_CUDNN = "cuDNN is unavailable"
# Log levels of ONNX Runtime. Fatal only: errors are raised with the same text. With TensorRT,
# errors too: those of its parser and builder are not raised.
_FATAL, _ERRORS = 4, 3
# The heavy operators of a model; the rest (shapes, masks, indices) may run on the CPU.
_HEAVY = re.compile(r"MatMul|Gemm|Attention|Norm|Rotary|Softmax|Gelu|Conv")
# How long threads spin before they sleep, in µs: longer than the gap between two operators, and
# between two short calls. The default spins so long that a single small call burns ten times its
# CPU time.
_SPIN = ("session.intra_op.spin_duration_us", "500")
_RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"
# This variable turns TensorFloat-32 off in NVIDIA's libraries, TensorRT's builder included
# (docs.nvidia.com/deeplearning/tensorrt, "TF32").
_NO_TF32 = ("NVIDIA_TF32_OVERRIDE", "0")
# ONNX Runtime's kernel of masked attention that does not store all scores takes rows of a multiple
# of 4 tokens only (onnxruntime/core/providers/cuda/llm/attention.cc, release 1.31).
_ALIGNED_TOKENS = 4
# ONNX Runtime's message for a graph that has nodes on the CPU.
_NO_CAPTURE = "cannot use the graph capture feature"
# Fusions that are left out, as found with onnxruntime 1.31.1. On the CPU: slower than the two nodes
# that it replaces, 8 % of a MiniLM row with AVX-512. On a GPU: a lookup of positions becomes a
# slice, whose bounds are copied to the CPU and waited for in every call, and which no CUDA graph
# can capture; and a softmax with its bias needs cuDNN.
_BAD_FUSIONS = {
    CPU: ["SkipLayerNormFusion"],
    CUDA: ["GatherToSliceFusion", "BiasSoftmaxFusion"],
}


class OrtEngine(LaneEngine[Any]):
    """One graph on the CPU."""

    def __init__(self, name: str, version: str, lanes: Lanes[Any]) -> None:
        with lanes.take() as session:
            inputs = [i.name for i in session.get_inputs()]
            outputs = [o.name for o in session.get_outputs()]
        super().__init__(name, version, inputs, outputs, lanes)

    def _call(self, session: Any, inputs: Arrays) -> Outputs:
        return dict(zip(self.output_names, session.run(None, inputs), strict=True))


class OrtGpuEngine(OrtEngine):
    """One session on an NVIDIA GPU, with bound inputs and outputs; with `graph_tokens`, small calls
    replay captured CUDA graphs."""

    device = "cuda:0"
    _memory = "cuda"

    def __init__(self, name: str, session: Any, ort: Any, setup: EngineSetup) -> None:
        # One call at a time: captured graphs share their buffers between calls.
        super().__init__(name, ort.__version__, Lanes(session))
        self._session = session
        self.shapes = compiled_shapes(name, setup)
        self._max_tokens = setup.max_tokens
        self._graphs = CapturedGraphs(session, ort, setup, self._memory)

    def shape_for(self, rows: int, tokens: int) -> Shape:
        """See Engine: the bucket of a captured graph, the smallest compiled shape, or a few tokens
        more, for the kernels of masked attention."""
        if self.shapes:
            return self.shapes[0].padded(rows, tokens)
        if (shape := self._graphs.shape_for(rows, tokens)) is not None:
            return shape
        whole = -(-tokens // _ALIGNED_TOKENS) * _ALIGNED_TOKENS
        return rows, whole if whole <= self._max_tokens else tokens

    def run(self, inputs: Arrays) -> Outputs:
        """All outputs of the graph, by name. Raises as Engine says."""
        try:
            shape = self._graphs.shape_of(inputs)
            if shape is not None and not self._graphs.has(shape):
                with GPU_USE.alone() as alone:
                    captured = self._capture(shape, inputs) if alone else None
                if isinstance(captured, dict):
                    return captured
                if captured is not None:
                    self._without_graph(shape, captured)
            with GPU_USE.shared():
                if shape is not None and self._graphs.has(shape):
                    return self._graphs.run(shape, inputs)
                return self._run_with_binding(inputs)
        except DeviceLost:
            raise
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            raise classify_gpu_error(self.name, error) from error

    def try_out(self) -> None:
        """Compute one short row of zeros: a kernel without code for this card and a library that is
        loaded late are missed in a call, not when the session opens. Raises as ONNX Runtime."""
        sizes = self.shape_for(1, _ALIGNED_TOKENS)
        self._run_with_binding(
            {
                one.name: np.zeros(
                    [
                        size if isinstance(size, int) else sizes[axis > 0]
                        for axis, size in enumerate(one.shape)
                    ],
                    TYPES.get(one.type, np.float32),
                )
                for one in self._session.get_inputs()
            }
        )

    def close(self) -> None:
        """See LaneEngine."""
        with GPU_USE.shared():
            self._graphs.close()
            self._session = None
            super().close()

    def _capture(self, shape: Shape, inputs: Arrays) -> Outputs | Exception:
        """The outputs of a call that captures a graph, or why it failed."""
        try:
            return self._graphs.run(shape, inputs)
        except Exception as error:
            return error

    def _without_graph(self, shape: Shape, error: Exception) -> None:
        """Capture this shape no more. Raises DeviceLost if that is what the `error` means. To find
        out may take the GPU, so not before the capture has ended."""
        if isinstance(found := classify_gpu_error(self.name, error), DeviceLost):
            raise found from error
        self._graphs.give_up(shape)
        _log.warning(
            "%s: calls of %d × %d tokens run without a CUDA graph: %s", self.name, *shape, error
        )

    def _run_with_binding(self, inputs: Arrays) -> Outputs:
        binding = self._session.io_binding()
        for name in self.input_names:
            binding.bind_cpu_input(name, np.ascontiguousarray(inputs[name]))
        for name in self.output_names:
            binding.bind_output(name, self._memory, 0)
        self._session.run_with_iobinding(binding, self._graphs.plain_options())
        return dict(zip(self.output_names, binding.copy_outputs_to_cpu(), strict=True))


def open_engine(name: str, model_file: Path, setup: EngineSetup) -> OrtEngine:
    """Open `model_file` on the provider of engine `name`.

    Raises EngineUnavailable when the provider or its hardware is missing, and OutOfMemory,
    DeviceLost or EngineError when it fails.
    """
    try:
        ort = import_without_telemetry("onnxruntime")
    except ImportError as error:
        raise EngineUnavailable(
            f"engine {name} needs the package onnxruntime; install the extra serve-cpu or serve-gpu"
        ) from error
    wanted = _PROVIDERS[name]
    if missing := [one for one in wanted if one not in ort.get_available_providers()]:
        raise EngineUnavailable(
            f"engine {name} needs {missing[0]}, but this onnxruntime offers "
            f"{', '.join(ort.get_available_providers())}; install the matching extra"
        )
    if name == "onnxruntime-cpu":
        try:
            opening = partial(_session, ort, name, model_file, provider_options(name, setup))
            return OrtEngine(name, ort.__version__, open_lanes(place_here(model_file), opening))
        except Exception as error:
            raise EngineError(f"{name} cannot open {model_file.name}: {error}") from error
    if name == "onnxruntime-tensorrt":
        setup = replace(setup, cache=_writable_cache(setup, ort))
        if setup.precision != "fp32" and not keeps_types(ort.__version__):
            _log.warning(
                "onnxruntime %s lets TensorRT choose the types of values for itself, float16 also "
                "where the graph wants float32; a plan keeps the graph's",
                ort.__version__,
            )
    return _open_on_gpu(ort, name, model_file, setup, _load_libraries(ort))


def _open_on_gpu(
    ort: Any, name: str, model_file: Path, setup: EngineSetup, loader_output: str
) -> OrtGpuEngine:
    """A session with all heavy work on the provider of `name`, which has computed a row."""
    wanted = _PROVIDERS[name]
    external = model_file.with_name(f"{model_file.name}.data").is_file()
    providers = provider_options(
        name, setup, typed=keeps_types(ort.__version__), external_weights=external
    )
    try:
        with _without_tf32(name):
            session = _session(ort, name, model_file, providers, usable_cores())
            _refuse_fallback(name, wanted, session, loader_output)
            _refuse_other_providers(name, wanted[0], session)
            engine = OrtGpuEngine(name, session, ort, setup)
            engine.try_out()
    except EngineUnavailable:
        raise
    except Exception as error:
        if setup.graph_tokens and _NO_CAPTURE in str(error):
            _log.warning("%s: no CUDA graphs, small calls take longer: %s", name, error)
            return _open_on_gpu(
                ort, name, model_file, replace(setup, graph_tokens=0), loader_output
            )
        if _NO_TENSORRT in str(error):
            raise EngineUnavailable(
                f"engine {name} could not load TensorRT; wanted {_MISSING[TENSORRT]}"
            ) from error
        if _NO_CUDNN in str(error):
            raise EngineUnavailable(
                f"engine {name}: {model_file.name} has operators that need cuDNN 9, which was not "
                f"found ({error}); install it, or {_TAKES_ALL[CUDA]}, whose graph does without"
            ) from error
        if _NO_CUDA.search(str(error)):
            raise EngineUnavailable(
                f"engine {name} cannot use this GPU ({error}); wanted {_MISSING[CUDA]}"
            ) from error
        raise classify_gpu_error(name, error, f"cannot open {model_file.name}") from error
    return engine


def _writable_cache(setup: EngineSetup, ort: Any) -> Path | None:
    """Create the cache folder for this version of ONNX Runtime and this memory limit, which the
    names of compiled engines do not contain. Raises EngineUnavailable."""
    if setup.cache is None:
        _log.warning("no NIM_CACHE_PATH: TensorRT compiles the graph again at every start")
        return None
    bound = "" if setup.memory_bytes is None else f"-{setup.memory_bytes}"
    folder = setup.cache / f"onnxruntime-{ort.__version__}{bound}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineUnavailable(
            f"engine onnxruntime-tensorrt cannot make {folder}: {error.strerror}; wanted a "
            f"NIM_CACHE_PATH that user id {os.getuid()} may write to"
        ) from error
    return folder


def _session(
    ort: Any,
    name: str,
    model_file: Path,
    providers: list[tuple[str, dict[str, str]]],
    threads: int,
) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS if name == "onnxruntime-tensorrt" else _FATAL
    options.intra_op_num_threads = threads
    # The arena keeps the memory of large intermediate values between calls. Without it the C
    # library maps and unmaps them each time, a third of a large call. BatchLimits bound its size.
    # Memory patterns would be planned again for every shape.
    options.enable_mem_pattern = False
    options.add_session_config_entry(*_SPIN)
    if name != "onnxruntime-cpu":
        options.add_session_config_entry(_RECORD_ASSIGNMENT, "1")
    return ort.InferenceSession(
        str(model_file),
        sess_options=options,
        providers=providers,
        disabled_optimizers=_BAD_FUSIONS[providers[-1][0]],
        enable_fallback=0,
    )


def _load_libraries(ort: Any) -> str:
    """Load CUDA's libraries from their Python packages, if installed. Returns ONNX Runtime's
    messages about libraries that it cannot load.

    ONNX Runtime prints them; the `print` of its module is replaced to keep stdout clean.
    """
    loader_output: list[str] = []
    ort.print = lambda *words, **_: loader_output.append(" ".join(map(str, words)))
    ort.preload_dlls()
    return "; ".join(loader_output)


@contextlib.contextmanager
def _without_tf32(name: str) -> Iterator[None]:
    """Compile without TensorFloat-32, for which ONNX Runtime's TensorRT provider has no option.

    TensorFloat-32 would round the graph's float32 parts to 11 bits, the score head above all. The
    server sets the variable before its first thread starts, because changing the environment beside
    other threads is not safe.
    """
    variable, off = _NO_TF32
    before = os.environ.get(variable)
    if name != "onnxruntime-tensorrt" or before == off:
        yield
        return
    os.environ[variable] = off
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = before


def _refuse_fallback(name: str, wanted: Sequence[str], session: Any, loader_output: str) -> None:
    found = session.get_providers()
    for provider, got in itertools.zip_longest(wanted, found[: len(wanted)]):
        if got != provider:
            what = _MISSING.get(provider, "another onnxruntime")
            hint = f" (it said: {loader_output})" if loader_output else ""
            raise EngineUnavailable(
                f"engine {name} could not start {provider} and would have run on "
                f"{', '.join(found)}; wanted {what}{hint}; repair the installation or choose "
                "another target"
            )


def _refuse_other_providers(name: str, own: str, session: Any) -> None:
    """Refuse a session that runs heavy operators on another provider than `own`; log the light
    ones."""
    left = Counter(
        (part.ep_name, node.op_type)
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != own
        for node in part.get_nodes()
    )
    heavy = [f"{op} × {n} ({ep})" for (ep, op), n in sorted(left.items()) if _HEAVY.search(op)]
    if heavy:
        raise EngineUnavailable(
            f"engine {name}: {own} does not support {', '.join(heavy)}, which would run on another "
            f"provider; {_TAKES_ALL[own]}"
        )
    if left:
        listed = ", ".join(f"{op} × {n} ({ep})" for (ep, op), n in left.items())
        _log.info("%s: not on %s: %s", name, own, listed)
