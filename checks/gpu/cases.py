"""The checks, in order. Each returns a line about its result, raises AssertionError when the result
is wrong, and NotApplicable when the machine lacks what it needs."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from checks.gpu.models import (
    CONFIGS,
    Exported,
    Operators,
    Weights,
    adapted,
    export,
    make_model,
    make_rows,
    padded_inputs,
    reference,
)
from checks.gpu.plans import build_plan
from checks.gpu.service import (
    admits_a_lost_device,
    break_it,
    missing,
    serving,
    survives_no_memory,
    with_tokenizer,
)
from runtime.engines import Engine, EngineSetup, open_engine
from runtime.engines.cudart import Cuda, CudaFailed, host_array, open_cuda
from runtime.errors import EngineUnavailable, OutOfMemory
from runtime.gpu import find_gpu
from runtime.profile import load_target_profile
from runtime.shapes import PLACES_INPUT, ShapeRange, shapes_with_graphs

# Uneven lengths: some not multiples of 4 or 8, one at each end of a profile.
LENGTHS = [3, 5, 17, 31, 32, 63, 64, 100, 127, 200, 255, 256, 300, 511, 512]
_TINY_LENGTHS = [3, 5, 17, 32, 40]
# Random weights spread logits by about 1; half precision may differ by a share of that spread, the
# accumulated error of the layers.
_TOLERANCE = {"fp32": 1e-3, "fp16": 0.03, "bf16": 0.25}
_TAU = {"fp32": 1.0, "fp16": 0.97, "bf16": 0.9}
_MEGABYTE = 1e6
_PROFILE = ShapeRange((1, 16, 64), (3, 256, 512))
_HUGE_BYTES = 1 << 50
# A server of the bare graph, whose maximum length is its model profile's.
_SERVED_AS = {"NIM_MODEL_PROFILE": "cuda-fp16"}
_LONGEST_TOKENS, _HALF_BYTES = 8192, 2
# As in the targets that ask for captured graphs.
_WITH_GRAPHS = load_target_profile("cuda-fp16-graphs")


class NotApplicable(Exception):
    """The machine lacks something that the check needs; the message says what."""


@dataclass
class Machine:
    """Where the checks run: `device` "cuda" or "cpu", the `model` of CONFIGS, a folder to work in.

    Graphs are exported once each.
    """

    device: str
    model: str
    work: Path
    graphs: dict[tuple[str, str], Exported] = field(default_factory=dict)

    @property
    def engine(self) -> str:
        """ONNX Runtime's engine for the device."""
        return "onnxruntime-cuda" if self.device == "cuda" else "onnxruntime-cpu"

    @property
    def rows(self) -> list[list[int]]:
        """The rows that engines are compared on."""
        lengths = _TINY_LENGTHS if self.device == "cpu" else LENGTHS
        return make_rows(lengths, self.vocabulary)

    @cached_property
    def wanted(self) -> np.ndarray:
        """PyTorch's logits of `rows` in float32."""
        return reference(make_model(self.model), self.rows, self.device)

    @property
    def vocabulary(self) -> int:
        """The number of its token ids."""
        return int(CONFIGS[self.model]["vocab_size"])

    def graph(self, weights: Weights, operators: Operators) -> Exported:
        """The exported graph."""
        key, lean = (weights, operators), operators == "lean"
        if key not in self.graphs:
            self.graphs[key] = (
                export(self.model, weights, self.work / f"{self.model}-{weights}")
                if operators == "onnx"
                else adapted(self.graph(weights, "onnx"), lean=lean, packed=lean)
            )
        return self.graphs[key]

    def opened(self, name: str, exported: Exported, **setup: object) -> Engine:
        """The engine on a graph; NotApplicable where it is not installed."""
        given = EngineSetup(precision=exported.precision, **setup)  # type: ignore[arg-type]
        try:
            return open_engine(name, exported.directory, given)
        except EngineUnavailable as error:
            raise NotApplicable(str(error)) from error


def driver_and_pytorch_agree(machine: Machine) -> str:
    """The runtime's view of the GPU agrees with PyTorch's."""
    found = find_gpu()
    if machine.device == "cpu":
        return "on the CPU"
    assert found is not None
    major, minor = torch.cuda.get_device_capability(0)
    assert found.name == torch.cuda.get_device_name(0), found
    assert found.compute_capability == f"{major}.{minor}", found
    return f"{found.name}, {found.compute_capability}, driver {found.driver}"


def cuda_memory(machine: Machine) -> str:
    """Copies pinned memory to the device and back; survives an allocation that is too large."""
    _needs_gpu(machine)
    cuda: Cuda = open_cuda()
    wanted = np.arange(1000, dtype=np.int64)
    stream = cuda.create_stream()
    there, here = cuda.allocate_pinned(wanted.nbytes), cuda.allocate_pinned(wanted.nbytes)
    device = cuda.allocate(wanted.nbytes)
    host_array(there, wanted.shape, wanted.dtype)[...] = wanted
    assert _code_of(lambda: cuda.allocate(_HUGE_BYTES)) == 2
    cuda.to_device(device, there, wanted.nbytes, stream)
    cuda.to_host(here, device, wanted.nbytes, stream)
    cuda.wait(stream)
    assert (host_array(here, wanted.shape, wanted.dtype) == wanted).all()
    cuda.free(device)
    for address in (there, here):
        cuda.free_pinned(address)
    cuda.destroy_stream(stream)
    return "8000 bytes there and back; too much is refused with code 2"


def onnx_fp32(machine: Machine) -> str:
    """ONNX's own operators in float32."""
    return _agrees(machine, machine.engine, machine.graph("float32", "onnx"))


def onnx_fp16(machine: Machine) -> str:
    """ONNX's own operators in half precision: what TensorRT gets."""
    return _agrees(machine, machine.engine, machine.graph("float16", "onnx"))


def cuda_fp16(machine: Machine) -> str:
    """The graph of target cuda-fp16."""
    return _agrees(machine, machine.engine, machine.graph("float16", "onnxruntime-cuda"))


def cuda_bf16(machine: Machine) -> str:
    """The graph of target cuda-bf16."""
    _needs_gpu(machine)
    return _agrees(machine, machine.engine, machine.graph("bfloat16", "onnxruntime-cuda"))


def cuda_lean(machine: Machine) -> str:
    """The graph of target cuda-fp16-lean."""
    return _agrees(machine, machine.engine, machine.graph("float16", "lean"))


def cuda_graphs(machine: Machine) -> str:
    """Captured graphs and plain calls agree as two orders of half-precision sums do, also for other
    inputs of the same shape; and the memory that all graphs take that there can be."""
    exported = machine.graph("float16", "onnxruntime-cuda")
    with closing(machine.opened(machine.engine, exported)) as engine:
        pairs = [_calls(engine, machine, shift) for shift in range(3)]
    far = 0.0
    small = {"graph_tokens": _WITH_GRAPHS.graph_tokens, "padding_waste": _WITH_GRAPHS.padding_waste}
    with closing(machine.opened(machine.engine, exported, **small)) as engine:
        if machine.device == "cuda":
            assert engine.shape_for(3, 10) == (4, 16), "the engine opened without CUDA graphs"
        for shift, wanted in enumerate(pairs):
            found = _calls(engine, machine, shift)
            far = max(far, float(np.abs(found - wanted).max()))
        took = _memory_of_graphs(engine) if machine.device == "cuda" else ""
    spread = float(machine.wanted.std())
    assert far <= _TOLERANCE["fp16"] * spread, (far, spread)
    return f"3 inputs a shape, captured and plain at most {far:.2g} apart{took}"


def neighbours(machine: Machine) -> str:
    """A row's score alone, in a batch, and padded on either side."""
    exported = machine.graph("float16", "onnxruntime-cuda")
    with closing(machine.opened(machine.engine, exported)) as engine:
        alone = np.asarray([_logits(engine, [row])[0] for row in machine.rows])
        sides = [_logits(engine, machine.rows, side) for side in ("left", "right")]
    far = max(float(np.abs(found - alone).max()) for found in sides)
    spread = float(machine.wanted.std())
    assert far <= _TOLERANCE["fp16"] * spread, (far, spread)
    return f"at most {far:.2g} apart"


def out_of_memory(machine: Machine) -> str:
    """A call beyond the arena's limit is classified as out of memory; a smaller one then works."""
    _needs_gpu(machine)
    exported = machine.graph("float16", "onnxruntime-cuda")
    size = sum(file.stat().st_size for file in exported.directory.iterdir())
    room = size + (256 << 20)
    with closing(machine.opened(machine.engine, exported, memory_bytes=room)) as engine:
        small = make_rows([64] * 2, machine.vocabulary)
        before = _logits(engine, small)
        try:
            for rows in (64, 512, 4096):
                engine.run(padded_inputs(make_rows([512] * rows, machine.vocabulary)))
        except OutOfMemory:
            assert (_logits(engine, small) == before).all()
            return f"{rows} × 512 tokens refused within {room / _MEGABYTE:.0f} MB, 2 × 64 computed"
    raise AssertionError(f"nothing was refused within {room} bytes")


def lost_device(machine: Machine) -> str:
    """After a GPU fault the next call reports a lost device."""
    _needs_gpu(machine)
    exported = machine.graph("float16", "onnxruntime-cuda")
    machine.opened(machine.engine, exported).close()
    done = subprocess.run(
        [sys.executable, "-m", "checks.gpu.lost", str(exported.directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip().endswith("DeviceLost"), done.stdout + done.stderr[-2000:]
    return "a kernel's assertion is recognised"


def service_out_of_memory(machine: Machine) -> str:
    """A whole server whose GPU has no memory for the longest row."""
    served = _to_serve(machine)
    # Beside the weights, half of what one longest row needs.
    row = _LONGEST_TOKENS * CONFIGS[machine.model]["intermediate_size"] * _HALF_BYTES
    size = sum(file.stat().st_size for file in served.glob("model.onnx*"))
    given = {**_SERVED_AS, "RERANK_GPU_MEMORY_BYTES": str(size + row)}
    with serving(machine.work / "no-memory", served, given) as service:
        return survives_no_memory(service)


def service_lost_device(machine: Machine) -> str:
    """A whole server whose GPU fails while it runs."""
    with serving(machine.work / "lost", _to_serve(machine), _SERVED_AS) as service:
        return admits_a_lost_device(service, break_it)


def memory(machine: Machine) -> str:
    """Memory of the GPU for one row of 512, 4096 and 8192 tokens, and for 64 of 512."""
    _needs_gpu(machine)
    exported = machine.graph("float16", "onnxruntime-cuda")
    torch.cuda.empty_cache()
    before = torch.cuda.mem_get_info()[0]
    found = []
    for rows, tokens in ((1, 512), (1, 4096), (1, 8192), (64, 512)):
        with closing(machine.opened(machine.engine, exported)) as engine:
            engine.run(padded_inputs(make_rows([tokens] * rows, machine.vocabulary)))
            taken = before - torch.cuda.mem_get_info()[0]
        found.append(f"{rows} × {tokens}: {taken / _MEGABYTE:.0f} MB")
    return ", ".join(found)


def onnxruntime_tensorrt(machine: Machine) -> str:
    """ONNX Runtime's TensorRT provider on the graph of target ort-tensorrt-fp16."""
    _needs_gpu(machine)
    exported = machine.graph("float16", "onnx")
    shapes = {"shapes": (_PROFILE,), "cache": machine.work}
    return _agrees(machine, "onnxruntime-tensorrt", exported, **shapes)


def native_plan(machine: Machine) -> str:
    """A plan, built and run."""
    _needs_gpu(machine)
    exported = machine.graph("float16", "onnx")
    try:
        build_plan(exported)
    except EngineUnavailable as error:
        raise NotApplicable(str(error)) from error
    return _agrees(machine, "tensorrt", exported)


CHECKS: tuple[Callable[[Machine], str], ...] = (
    driver_and_pytorch_agree,
    cuda_memory,
    onnx_fp32,
    onnx_fp16,
    cuda_fp16,
    cuda_bf16,
    cuda_lean,
    neighbours,
    cuda_graphs,
    memory,
    out_of_memory,
    lost_device,
    service_out_of_memory,
    service_lost_device,
    onnxruntime_tensorrt,
    native_plan,
)


def tau(found: np.ndarray, wanted: np.ndarray) -> float:
    """Kendall's tau over all pairs; no two of random logits are equal."""
    pairs = np.triu_indices(len(wanted), 1)
    agree = np.sign(np.subtract.outer(found, found)) == np.sign(np.subtract.outer(wanted, wanted))
    return float(2 * agree[pairs].mean() - 1)


def _memory_of_graphs(engine: Engine) -> str:
    """What graphs of all shapes take, once the arena has what the largest call needs."""
    shapes = shapes_with_graphs(_WITH_GRAPHS.graph_tokens, _WITH_GRAPHS.max_rows)
    before = torch.cuda.mem_get_info()[0]
    for rows, tokens in shapes:
        engine.run(
            {name: np.ones((rows, tokens), np.int64) for name in engine.input_names},
        )
    took = before - torch.cuda.mem_get_info()[0]
    return f"; {len(shapes)} shapes took {took / _MEGABYTE:.0f} MB"


def _agrees(machine: Machine, name: str, exported: Exported, **setup: object) -> str:
    """Compare an engine with PyTorch in float32 on rows of uneven length."""
    with closing(machine.opened(name, exported, **setup)) as engine:
        found = _logits(engine, machine.rows)
    assert np.isfinite(found).all(), found
    delta, spread = float(np.abs(found - machine.wanted).max()), float(machine.wanted.std())
    order = tau(found, machine.wanted)
    line = f"max |Δ| {delta:.2g} of std {spread:.2g}, tau {order:.3f}"
    assert delta <= _TOLERANCE[exported.precision] * spread, line
    assert order >= _TAU[exported.precision], line
    return line


def _logits(engine: Engine, rows: list[list[int]], side: str = "right") -> np.ndarray:
    inputs = padded_inputs(rows, side)
    if PLACES_INPUT in engine.input_names:
        inputs[PLACES_INPUT] = np.flatnonzero(inputs["attention_mask"])
    found = engine.run(inputs)[engine.output_names[0]]
    return found.reshape(-1).astype(np.float64)


def _calls(engine: Engine, machine: Machine, shift: int) -> np.ndarray:
    """Logits of full batches in shapes that are buckets: 1 × 16, 2 × 32, 4 × 64."""
    drawn = (
        make_rows([tokens] * (rows + shift), machine.vocabulary)[shift:]
        for rows, tokens in ((1, 16), (2, 32), (4, 64))
    )
    return np.concatenate([_logits(engine, rows) for rows in drawn])


def _to_serve(machine: Machine) -> Path:
    """The graph of target cuda-fp16 as a server mounts it; NotApplicable when no server can run."""
    _needs_gpu(machine)
    if machine.model == "tiny":
        raise NotApplicable(
            "needs --model 1b: the tiny one has another vocabulary, and fits anywhere"
        )
    if (lacks := missing()) is not None:
        raise NotApplicable(f"the server cannot run here: {lacks}")
    exported = machine.graph("float16", "onnxruntime-cuda")
    machine.opened(machine.engine, exported).close()
    directory = machine.work / "served"
    return directory if directory.exists() else with_tokenizer(exported.directory, directory)


def _code_of(call: Callable[[], object]) -> int:
    """The error code of a CUDA call; 0 when it succeeds."""
    try:
        call()
    except CudaFailed as error:
        return error.code
    return 0


def _needs_gpu(machine: Machine) -> None:
    if machine.device == "cpu":
        raise NotApplicable("no GPU found")
