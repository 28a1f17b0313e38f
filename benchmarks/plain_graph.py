"""Write the graph of a checkpoint as peers compute it: the whole last layer, in float32.

python -m benchmarks.plain_graph CHECKPOINT ARTIFACT FOLDER

Our artifacts compute only the pooled token in the last layer, where pooling takes one. That saving
is ours, so the raw engines do not get it. ARTIFACT is one of the checkpoint's, for its tokenizer.
"""

import shutil
import sys
from pathlib import Path

from exporter.checkpoint import load_model, read_checkpoint
from exporter.onnx_file import move_to_onnx
from runtime.telemetry import disable_telemetry


def main(checkpoint: Path, artifact: Path, folder: Path) -> None:
    """Write model.onnx and tokenizer/ into `folder`."""
    disable_telemetry()
    folder.mkdir(parents=True)
    shutil.copytree(artifact / "tokenizer", folder / "tokenizer")
    move_to_onnx(load_model(read_checkpoint(str(checkpoint))), folder)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
