"""The engine that proves a graph, and the artifact that it can compute."""

import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import onnx
from onnx import parser

from exporter.long_rows import LONG_ROW_TOKENS, chunked_copy
from exporter.onnx_file import OPSET
from runtime.engines import open_engine
from runtime.manifest import MODEL_FILE, Manifest
from runtime.profile import TargetProfile
from runtime.selection import EngineOptions, setup_for

# With the inputs of a text graph, whose shapes an engine may be opened for. IR version 10 fits
# engines of this opset; by default the library writes its newest.
_SMALLEST = f"""
<ir_version: 10, opset_import: ["" : {OPSET}]>
g (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask)
    => (float[batch, sequence] found)
{{
    real = Mul (input_ids, attention_mask)
    found = Cast <to = 1> (real)
}}
"""


def proving_engine(target: TargetProfile) -> str:
    """The engine that proves a graph for `target`: its own. For a plan, which is not built yet, it
    is ONNX Runtime's CPU provider, and the plan is proven once it is built."""
    return target.engine if target.engine != "tensorrt" else "onnxruntime-cpu"


def require_engine(name: str) -> None:
    """Open the engine on a graph of two nodes, for the shapes of its usual target, so that missing
    hardware is found before any work. Raises EngineError."""
    setup = setup_for(name, None, None, EngineOptions())
    with tempfile.TemporaryDirectory() as directory:
        onnx.save(parser.parse_model(_SMALLEST), Path(directory) / MODEL_FILE)
        open_engine(name, Path(directory), setup).close()


def needs_chunks(manifest: Manifest, engine: str) -> bool:
    """Whether `engine` lacks the memory for the attention of the artifact's longest rows."""
    return engine == "onnxruntime-cpu" and manifest.max_tokens > LONG_ROW_TOKENS


def computable(
    directory: Path, manifest: Manifest, target: TargetProfile, engine: str, within: Path | None
) -> AbstractContextManager[Path]:
    """The artifact that `engine` can compute: where the CPU stands in for the GPU of `target`, and
    rows are long, a chunked copy in `within`."""
    if target.engine != engine and needs_chunks(manifest, engine):
        return chunked_copy(directory, within)
    return nullcontext(directory)
