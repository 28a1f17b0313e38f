"""The speed of matrix products in a model's shapes: an upper bound for engines.

python -m benchmarks.ceiling [ENGINE, SHAPES], in a process of its own: the argument is JSON, SHAPES
is [[K, N, times], …].
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.environments import printed_by
from runtime.cores import usable_cores
from runtime.telemetry import disable_telemetry

# Rows of the left factor: tokens of a large call.
ROWS = 512

Shapes = Sequence[tuple[int, int, int]]
Product = Callable[[], object]


def measure_ceilings(shapes: Shapes) -> dict[str, float]:
    """FLOP/s by precision of one layer's products, all cores, with the library that is fastest:
    PyTorch is slower than OpenVINO on some machines. `shapes` are (K, N, times).

    Raises PeerMissing; a precision that no library multiplies here is left out.
    """
    best: dict[str, float] = {}
    for engine in ("torch", "openvino"):
        argument = json.dumps([engine, shapes])
        found: dict[str, float] = json.loads(printed_by(engine, "benchmarks.ceiling", argument))
        best = {name: max(best.get(name, 0), found.get(name, 0)) for name in best | found}
    return best


def gpu_ceilings(shapes: Shapes, rows: int, device: str) -> dict[str, float]:
    """The same in the precisions of GPUs, for calls of `rows` tokens on `device`."""
    import torch

    def fastest(product: Product) -> float:
        wait = torch.cuda.synchronize if device == "cuda" else _no_wait
        return _fastest(product, 0.5, 10, wait)

    return {
        name: _rate(shapes, rows, _floating(dtype, rows, device), fastest)
        for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16))
    }


def _openvino(shapes: Shapes) -> dict[str, float]:
    import numpy as np
    from openvino import Core, Model, opset13

    core = Core()

    def rate(hint: str) -> float:
        def make(k: int, n: int) -> Product:
            left = opset13.parameter([ROWS, k], np.float32)
            right = opset13.constant(np.random.default_rng(0).random((n, k), np.float32))
            model = Model([opset13.matmul(left, right, False, True)], [left])
            request = core.compile_model(
                model, "CPU", {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": cores}
            ).create_infer_request()
            value = np.ones((ROWS, k), np.float32)
            return lambda: request.infer([value], share_inputs=True, share_outputs=True)

        return _rate(shapes, ROWS, make, lambda product: _fastest(product, 0.3, 5))

    cores = usable_cores()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    hints = {"fp32": "f32"} | ({"bf16": "bf16"} if "BF16" in able else {})
    return {precision: rate(hint) for precision, hint in hints.items()}


def _torch(shapes: Shapes) -> dict[str, float]:
    import torch

    def integer(k: int, n: int) -> Product:
        left = torch.randint(-127, 128, (ROWS, k), dtype=torch.int8)
        right = torch.randint(-127, 128, (n, k), dtype=torch.int8).t()
        return lambda: torch._int_mm(left, right)

    makers = {
        "fp32": _floating(torch.float32, ROWS, "cpu"),
        "bf16": _floating(torch.bfloat16, ROWS, "cpu"),
        "int8": integer,
    }
    found = {}
    for precision, make in makers.items():
        try:
            found[precision] = _rate(shapes, ROWS, make, _fastest_on_cores)
        except RuntimeError as error:
            sys.stderr.write(f"no {precision} products here: {error}\n")
    return found


def _floating(dtype: Any, rows: int, device: str) -> Callable[[int, int], Product]:
    """Makes products in a floating-point `dtype`, weights laid out as in a linear layer."""
    import torch

    def make(k: int, n: int) -> Product:
        left = torch.randn(rows, k, device=device).to(dtype)
        right = torch.randn(n, k, device=device).to(dtype).t()
        return lambda: left @ right

    return make


def _rate(
    shapes: Shapes,
    rows: int,
    make: Callable[[int, int], Product],
    fastest: Callable[[Product], float],
) -> float:
    """Operations per second of all products of one layer."""
    seconds = sum(times * fastest(make(k, n)) for k, n, times in shapes)
    return sum(2 * rows * k * n * times for k, n, times in shapes) / seconds


def _fastest_on_cores(product: Product) -> float:
    """Small products are faster on one core than on all of them."""
    import torch

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = _fastest(product, 0.3, 5)
    finally:
        torch.set_num_threads(threads)
    return min(alone, _fastest(product, 0.3, 5))


def _no_wait() -> None:
    """A product on the CPU is finished when its call returns."""


def _fastest(
    product: Product, least_s: float, least_runs: int, wait: Callable[[], None] = _no_wait
) -> float:
    """Seconds of the fastest run: an upper bound needs the best time, not the average."""
    product()
    fastest, runs, began = float("inf"), 0, time.perf_counter()
    while runs < least_runs or time.perf_counter() - began < least_s:
        wait()
        start = time.perf_counter()
        product()
        wait()
        fastest = min(fastest, time.perf_counter() - start)
        runs += 1
    return fastest


if __name__ == "__main__":
    disable_telemetry()
    _engine, _shapes = json.loads(sys.argv[1])
    sys.stdout.write(json.dumps({"torch": _torch, "openvino": _openvino}[_engine](_shapes)))
