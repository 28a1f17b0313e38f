"""The GPU's speed of matrix products in a model's shapes: an upper bound for engines."""

import time
from collections.abc import Sequence

import torch

_MIN_S = 0.5
_MIN_RUNS = 10


def measure_ceilings(
    shapes: Sequence[tuple[int, int, int]], rows: int, device: str
) -> dict[str, float]:
    """FLOP/s by precision of one layer's products of `rows` tokens; `shapes` are (K, N, times)."""
    found = {}
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        seconds = [times * _fastest(rows, k, n, dtype, device) for k, n, times in shapes]
        operations = sum(2 * rows * k * n * times for k, n, times in shapes)
        found[name] = operations / sum(seconds)
    return found


def synchronize(device: str) -> None:
    """Wait until the device has finished."""
    if device == "cuda":
        torch.cuda.synchronize()


def _fastest(rows: int, k: int, n: int, dtype: torch.dtype, device: str) -> float:
    """Seconds of the fastest run, with weights laid out as in a linear layer."""
    left = torch.randn(rows, k, device=device).to(dtype)
    right = torch.randn(n, k, device=device).to(dtype).t()
    fastest, runs, began = float("inf"), 0, time.perf_counter()
    while runs < _MIN_RUNS or time.perf_counter() - began < _MIN_S:
        synchronize(device)
        start = time.perf_counter()
        left @ right
        synchronize(device)
        fastest = min(fastest, time.perf_counter() - start)
        runs += 1
    return fastest
