"""Turn off the telemetry of packages that we import or start, before it can begin.

Entry points call `disable_telemetry` first, so that child processes inherit it. Packages that
report at import are imported by `import_without_telemetry`, which also covers programs that use the
runtime as a library. Standard library only, for any environment.
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
        # A common convention: here of the hub's client, SkyPilot and infinity.
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
        # Clients and peers that the checks and the bench run.
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        "NVIDIA_USAGE_TELEMETRY_ENABLED": "false",  # langchain-nvidia-ai-endpoints
        # Not telemetry: without this it downloads a list of prices at import.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
)
# OpenVINO reports to Google Analytics at import, unless a file under HOME opts out. No variable
# turns that off, but without this package OpenVINO uses a stub.
_REPORTER = "openvino_telemetry"


def disable_telemetry() -> None:
    """Turn reporting off in this process and in those that inherit its environment.

    Overwrites settings that turn reporting on. Packages that are imported already are not affected.
    """
    for name, value in SWITCHES.items():
        # Only if needed: changing the environment beside other threads is not safe.
        if os.environ.get(name) != value:
            os.environ[name] = value
    # None makes Python refuse to import this module.
    sys.modules.setdefault(_REPORTER, None)  # type: ignore[arg-type]


def import_without_telemetry(package: str) -> Any:
    """Import `package` with its reporting turned off. Raises ImportError."""
    disable_telemetry()
    return importlib.import_module(package)
