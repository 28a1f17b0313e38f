"""Exports that checks make: in this process, or in a child whose memory is measured."""

import os
import subprocess
import sys
from pathlib import Path

from checks.serving import script
from exporter.errors import ExportError
from exporter.pipeline import ExportArgs, export
from runtime.errors import ServingError
from runtime.manifest import Manifest


def exported(check: str, checkpoint: str, artifact: Path, args: ExportArgs) -> Manifest:
    """Export in this process. A failure ends the check with its message: raises SystemExit."""
    try:
        return export(checkpoint, artifact, args)
    except (ExportError, ServingError) as error:
        sys.exit(f"{check}: {error}")


def peak_of_export(*arguments: str) -> int:
    """Run rerank-export; its peak resident memory in bytes. Raises SystemExit."""
    child = subprocess.Popen([script("rerank-export"), *arguments])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"the export failed with exit code {child.returncode}; see above")
    return usage.ru_maxrss * 1024
