"""How fast this GPU multiplies matrices in a model's shapes: what no engine can exceed."""

import time
from collections.abc import Sequence

import torch

_LEAST_S = 0.5
_LEAST_RUNS = 10


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
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def _fastest(rows: int, k: int, n: int, dtype: torch.dtype, device: str) -> float:
    """Seconds of the fastest run: a ceiling is not an average. Weights lie as in a linear layer."""
    left = torch.randn(rows, k, device=device).to(dtype)
    right = torch.randn(n, k, device=device).to(dtype).t()
    fastest, runs, began = float("inf"), 0, time.perf_counter()
    while runs < _LEAST_RUNS or time.perf_counter() - began < _LEAST_S:
        synchronize(device)
        start = time.perf_counter()
        left @ right
        synchronize(device)
        fastest = min(fastest, time.perf_counter() - start)
        runs += 1
    return fastest
