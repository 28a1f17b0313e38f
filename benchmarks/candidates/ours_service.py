"""Ours: rerank-serve over HTTP."""

import os
import sys
from pathlib import Path

from benchmarks.protocol import Setting


def serve(setting: Setting) -> None:
    """Become rerank-serve."""
    os.environ |= {
        "NIM_HTTP_API_PORT": str(setting.port),
        "NIM_TRITON_METRICS_PORT": "0",
        "NIM_TRITON_GRPC_PORT": "0",
        "NIM_LOG_LEVEL": "WARNING",
        "RERANK_MAX_PASSAGES": "512",
        # Slow points must be measured, not refused for their deadline.
        "NIM_REQUEST_TIMEOUT_S": "600",
    }
    program = str(Path(sys.executable).with_name("rerank-serve"))
    os.execv(program, [program, "--host", "127.0.0.1", "--rank", setting.graph])
