"""What an export of a large checkpoint needs, said before its long work begins."""

from collections.abc import Mapping
from math import prod
from pathlib import Path

from exporter.tolerances import LOW_PRECISIONS
from exporter.weights import Stored
from runtime.profile import Precision

_FLOAT_BYTES = 4
# The peak of an export with rows of up to some 3000 tokens, as a multiple of the float32 weights:
# measured on the shapes of 0.1 and 1.2 B parameters, and where they are rounded to 8 bits on one of
# 1.7 B, see LOG.md.
_PEAK, _PEAK_ROUNDED = 1.6, 2.1
_GB = 1e9
_LARGE = 2 * _GB
_MEMORY = Path("/proc/meminfo")


def memory_need(weights: Mapping[str, Stored], precision: Precision) -> str | None:
    """The message for a checkpoint with these `weights` and a target of this `precision`, None for
    one that needs little."""
    floats = sum(prod(stored.shape) for stored in weights.values()) * _FLOAT_BYTES
    if floats < _LARGE:
        return None
    peak = _PEAK_ROUNDED if precision in LOW_PRECISIONS else _PEAK
    return (
        f"these weights are {floats / _GB:.1f} GB in float32: the export needs some "
        f"{floats * peak / _GB:.0f} GB of memory{_free()}, and as much as the weights on disk"
    )


def _free() -> str:
    """How much is free, where the system says so."""
    try:
        lines = _MEMORY.read_text("ascii").splitlines()
    except OSError:
        return ""
    found = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return "" if found is None else f" ({int(found) * 1024 / _GB:.0f} GB are free)"
