"""A target profile for each precision."""

from runtime.profile import TargetProfile, load_target_profile


def target_in(precision: str) -> TargetProfile:
    """One that computes in `precision`."""
    return load_target_profile("cuda-fp16" if precision == "fp16" else f"cpu-{precision}")
