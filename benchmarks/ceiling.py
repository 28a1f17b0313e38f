"""The speed of matrix products in a model's shapes: an upper bound for engines.

python -m benchmarks.ceiling SHAPES, in a process of its own: SHAPES is JSON, [[K, N, times], …].
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.environments import printed_by

# Rows of the left factor: tokens of a large call.
ROWS = 512

Shapes = Sequence[tuple[int, int, int]]
Product = Callable[[], object]


def measure_ceilings(shapes: Shapes) -> dict[str, float]:
    """FLOP/s by precision of one layer's products with PyTorch (oneDNN), all cores; `shapes` are
    (K, N, times).

    Raises PeerMissing; a precision that the machine's PyTorch cannot multiply is left out.
    """
    found: dict[str, float] = json.loads(
        printed_by("torch", "benchmarks.ceiling", json.dumps(shapes))
    )
    return found


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


def _main(shapes: Shapes) -> None:
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
    sys.stdout.write(json.dumps(found))


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
    _main(json.loads(sys.argv[1]))
