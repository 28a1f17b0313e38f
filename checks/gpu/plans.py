"""A plan of a graph, built here."""

import importlib.util

from checks.gpu.models import Exported
from exporter.progress import print_line
from runtime.engines import MODEL_FILE, PLAN_FILE
from runtime.errors import EngineUnavailable

TARGET = "tensorrt-fp16"


def build_plan(exported: Exported) -> None:
    """Write model.plan beside the graph. Raises EngineUnavailable with what is missing."""
    if importlib.util.find_spec("msgspec") is None:
        raise EngineUnavailable("building a plan needs the package msgspec")
    from exporter.tensorrt_plan import compile_plan, this_machine
    from runtime.profile import load_target_profile

    target = load_target_profile(TARGET)
    compile_plan(
        this_machine(target),
        exported.directory / MODEL_FILE,
        exported.directory / PLAN_FILE,
        target,
        timing_cache=None,
        log=print_line,
    )
