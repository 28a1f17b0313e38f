"""What checks export, also random checkpoints: here, or in a child whose memory is measured."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file

from checks.serving import script
from exporter.checkpoint import CONFIG_FILE
from exporter.errors import ExportError
from exporter.pipeline import ExportArgs, export
from exporter.tokens import TOKENIZER_FILES
from exporter.weights import WEIGHTS_FILE
from runtime.errors import ServingError
from runtime.manifest import Manifest


def write_checkpoint(
    directory: Path, config: dict[str, Any], weights: dict[str, torch.Tensor], tokenizer: Path
) -> None:
    """A checkpoint with the tokenizer files of the folder `tokenizer`."""
    directory.mkdir(parents=True)
    content = msgspec.json.format(msgspec.json.encode(config), indent=2)
    (directory / CONFIG_FILE).write_bytes(content)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, directory / name)
    save_file(weights, directory / WEIGHTS_FILE)


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
