"""The graph of a target: written from a checkpoint's weights in its types and operators, and
rounded to its precision."""

import shutil
from pathlib import Path
from typing import Protocol

import torch

from exporter import onnxruntime_cuda
from exporter.architectures.nemotron_vl import EMBEDS_INPUT, PIXELS_INPUT, NemotronVL
from exporter.checkpoint import Checkpoint, load_model, probe
from exporter.errors import ExportError
from exporter.long_rows import unchunk_attention
from exporter.onnx_file import Example, move_to_onnx
from exporter.progress import stage
from exporter.quantization.static import quantize_for_tensorrt
from exporter.quantization.step import quantize
from exporter.tensorrt_graph import require_parsed
from exporter.tensorrt_lengths import TurnedRows, adapt
from exporter.tolerances import LOW_PRECISIONS
from exporter.workspace import link_or_copy
from runtime.manifest import MODEL_FILE, VISION_FILE, Manifest
from runtime.profile import TargetProfile

# Engines that give their graphs to TensorRT's parser.
PARSED = ("onnxruntime-tensorrt", "tensorrt")


class MakeGraph(Protocol):
    """Puts the graph of a draft with this `manifest` into `directory`; `make_graph`, or what knows
    a shorter way to the same."""

    def __call__(
        self, checkpoint: Checkpoint, manifest: Manifest, target: TargetProfile, directory: Path
    ) -> None: ...


def make_graph(
    checkpoint: Checkpoint, manifest: Manifest, target: TargetProfile, directory: Path
) -> None:
    """Write the graph and round it. Raises as `write_graph` and `round_graph` do, and ExportError
    for a graph that TensorRT's parser does not take."""
    write_graph(checkpoint, target, directory)
    round_graph(directory, manifest, target)
    if target.engine in PARSED:
        for path in directory.glob("*.onnx"):
            require_parsed(path)


def bring_graph(source: Path, directory: Path, *, link: bool = False) -> None:
    """Take the graph of the artifact `source`, as it was before it was fitted to an engine. With
    `link` both share the weights beside it, where links are possible: for graphs that nobody reads
    with the package onnx any more, which refuses weights with several links."""
    for path in (*source.glob(f"{MODEL_FILE}*"), *source.glob(f"{VISION_FILE}*")):
        # A graph is edited in place, weights are only ever replaced.
        bring = link_or_copy if link and path.suffix != ".onnx" else shutil.copyfile
        bring(path, directory / path.name)
    unchunk_attention(directory)


def write_graph(checkpoint: Checkpoint, target: TargetProfile, directory: Path) -> None:
    """Load the weights, check the attention mask, and write model.onnx; of a model that takes
    images vision.onnx too. Raises CheckpointRefused, AttentionMismatch, and ExportError for a model
    without attention of the target's kind."""
    with stage("load the checkpoint"):
        model = load_model(checkpoint)
        probe(model, checkpoint.config["vocab_size"])
    with stage("write the ONNX graph"):
        if target.weights == "float32":
            model.body.narrow = True
        else:
            # On a GPU only once a card has shown that attention of one row stays its fast kernel.
            model.halve(getattr(torch, target.weights))
        by_lengths = target.attention == "lengths"
        framed = TurnedRows(model) if by_lengths else model
        if isinstance(model, NemotronVL):
            embeds = _several(model.blank_inputs(torch.ones(2, 5))[EMBEDS_INPUT])
            tiles = _several(torch.empty(0, 3, model.tile_size, model.tile_size))
            move_to_onnx(model.take_tower(), directory, VISION_FILE, {PIXELS_INPUT: tiles})
            move_to_onnx(framed, directory, examples={EMBEDS_INPUT: embeds})
        else:
            move_to_onnx(framed, directory)
        if by_lengths and not adapt(directory / MODEL_FILE):
            raise ExportError(
                f"found no attention with a padding mask in the graph of "
                f"{checkpoint.architecture}, wanted one that can be told lengths for the target "
                f"{target.name}; choose the target tensorrt-fp16"
            )
        if target.operators == "onnxruntime-cuda":
            onnxruntime_cuda.adapt(directory, lean=target.lean, packed=target.packed)


def round_graph(directory: Path, manifest: Manifest, target: TargetProfile) -> None:
    """Rewrite model.onnx of `directory` in the target's precision, if that changes the graph.
    Raises QuantizationFailed."""
    if target.precision in LOW_PRECISIONS and target.shapes:
        with stage(f"calibrate and round to {target.precision}"):
            quantize_for_tensorrt(directory, manifest, target.precision)
    else:
        quantize(directory, manifest)


def _several(none: torch.Tensor) -> Example:
    """Two tiles like those of `none`."""
    return Example(torch.zeros(2, *none.shape[1:]), {0: "tiles"})
