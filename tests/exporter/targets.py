"""Targets that tests name."""

from exporter.pipeline import ExportArgs
from runtime.profile import TargetProfile, load_target_profile

# float16 for a GPU, proven on the CPU.
HALF = ExportArgs(target="cuda-fp16", engine="onnxruntime-cpu")


def target_in(precision: str) -> TargetProfile:
    """One that computes in `precision`."""
    return load_target_profile("cuda-fp16" if precision == "fp16" else f"cpu-{precision}")
