"""Telemetry of the packages that we import or start: off, before it can begin.

Entry points call `disable_telemetry` first, so that their child processes inherit it. Packages that
report as soon as they are imported come by `import_without_telemetry`, so that a program that uses
the runtime as a library is covered as well. Standard library only, for any environment.
"""

import importlib
import os
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# Environment variables and the values that turn reporting off.
SWITCHES: Mapping[str, str] = MappingProxyType(
    {
        # ONNX Runtime from 1.29 on: the machine and the model to Microsoft, a device id under HOME.
        "ORT_DISABLE_TELEMETRY": "1",
        # The Hugging Face hub's client, and with it transformers and sentence-transformers.
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # A convention of many: here of the hub's client, SkyPilot and infinity.
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
        # Clients and peers that the checks and the bench run.
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        "NVIDIA_USAGE_TELEMETRY_ENABLED": "false",  # langchain-nvidia-ai-endpoints
        # No report, but a list of prices that it would fetch when it is imported.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
)
# OpenVINO sends to Google Analytics when it is imported, unless a file under HOME says no. No
# variable turns that off, but without this package it takes a stub of its own.
_REPORTER = "openvino_telemetry"


def disable_telemetry() -> None:
    """Turn reporting off in this process and in those that inherit its environment.

    What was set to report before is overwritten. A package that is imported already goes on as it
    began.
    """
    for name, value in SWITCHES.items():
        # Not again where it stands: changing the environment beside other threads is not safe.
        if os.environ.get(name) != value:
            os.environ[name] = value
    # None in this place is how Python is told that a module cannot be imported.
    sys.modules.setdefault(_REPORTER, None)  # type: ignore[arg-type]


def import_without_telemetry(package: str) -> Any:
    """The imported `package`, which has found its reporting turned off. Raises ImportError."""
    disable_telemetry()
    return importlib.import_module(package)
