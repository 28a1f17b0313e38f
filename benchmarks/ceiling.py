"""The machine's speed of matrix products in a model's shapes: an upper bound for engines.

python -m benchmarks.ceiling SHAPES, in a process of its own: SHAPES is JSON, [[K, N, times], …].
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.environments import ROOT, PeerMissing, child_variables, interpreter

# Rows of the left factor: tokens of a large call.
ROWS = 512
_MIN_S = 0.3
_MIN_RUNS = 5


def measure_ceilings(shapes: Sequence[tuple[int, int, int]]) -> dict[str, float]:
    """FLOP/s by precision of one layer's products with PyTorch (oneDNN), all cores.

    Raises PeerMissing; a precision that the machine's PyTorch cannot multiply is left out.
    """
    done = subprocess.run(
        [str(interpreter("torch")), "-m", "benchmarks.ceiling", json.dumps(shapes)],
        cwd=ROOT,
        env=child_variables(),
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        raise PeerMissing(f"multiplying matrices ended with status {done.returncode}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _main(shapes: list[tuple[int, int, int]]) -> None:
    import torch

    def floating(dtype: torch.dtype) -> Callable[[int, int], Callable[[], object]]:
        def make(k: int, n: int) -> Callable[[], object]:
            left, right = torch.randn(ROWS, k).to(dtype), torch.randn(k, n).to(dtype)
            return lambda: left @ right

        return make

    def integer(k: int, n: int) -> Callable[[], object]:
        left = torch.randint(-127, 128, (ROWS, k), dtype=torch.int8)
        # Weights are laid out as in a linear layer: N rows of K.
        right = torch.randint(-127, 128, (n, k), dtype=torch.int8).t()
        return lambda: torch._int_mm(left, right)

    makers = {"fp32": floating(torch.float32), "bf16": floating(torch.bfloat16), "int8": integer}
    found = {}
    for precision, make in makers.items():
        try:
            seconds = [times * _fastest(make(k, n)) for k, n, times in shapes]
        except RuntimeError as error:
            sys.stderr.write(f"no {precision} products here: {error}\n")
            continue
        operations = sum(2 * ROWS * k * n * times for k, n, times in shapes)
        found[precision] = operations / sum(seconds)
    sys.stdout.write(json.dumps(found))


def _fastest(product: Callable[[], object]) -> float:
    """Seconds of the fastest run: an upper bound needs the best time, not the average.

    Small products are faster on one core than on all of them.
    """
    import torch

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = _fastest_run(product)
    finally:
        torch.set_num_threads(threads)
    return min(alone, _fastest_run(product))


def _fastest_run(product: Callable[[], object]) -> float:
    product()
    fastest, runs, began = float("inf"), 0, time.perf_counter()
    while runs < _MIN_RUNS or time.perf_counter() - began < _MIN_S:
        start = time.perf_counter()
        product()
        fastest = min(fastest, time.perf_counter() - start)
        runs += 1
    return fastest


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
