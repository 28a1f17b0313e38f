"""Write the graph of a checkpoint as peers compute it: the whole last layer, in float32.

python -m benchmarks.plain_graph CHECKPOINT PROFILE ARTIFACT FOLDER

Our artifacts compute only the pooled token in the last layer, where pooling takes one. That saving
is ours, so the raw engines do not get it. ARTIFACT is one of the checkpoint's, for its tokenizer.
"""

import shutil
import sys
from pathlib import Path

from exporter.checkpoint import load_model, read_checkpoint
from exporter.draft import ExportArgs, draft
from exporter.model_profile import choose_profile
from exporter.onnx_file import move_to_onnx
from runtime.profile import load_target_profile
from runtime.telemetry import disable_telemetry


def main(checkpoint: Path, profile: str, artifact: Path, folder: Path) -> None:
    """Write model.onnx and tokenizer/ into `folder`."""
    disable_telemetry()
    folder.mkdir(parents=True)
    shutil.copytree(artifact / "tokenizer", folder / "tokenizer")
    read = read_checkpoint(str(checkpoint))
    chosen = choose_profile(profile, read.architecture, read.kind)
    # The draft takes the rows of a judge's head.
    found = draft(read, chosen, load_target_profile("cpu-fp32"), ExportArgs())
    move_to_onnx(load_model(found.checkpoint), folder)


if __name__ == "__main__":
    _checkpoint, _profile, _artifact, _folder = sys.argv[1:]
    main(Path(_checkpoint), _profile, Path(_artifact), Path(_folder))
