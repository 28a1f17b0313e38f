"""The graph of a target: written from a checkpoint's weights in its types and operators, and
rounded to its precision."""

from pathlib import Path

import torch

from exporter import onnxruntime_cuda
from exporter.architectures.nemotron_vl import EMBEDS_INPUT, PIXELS_INPUT, NemotronVL
from exporter.checkpoint import Checkpoint, load_model, probe
from exporter.onnx_file import Example, move_to_onnx
from exporter.progress import stage
from exporter.quantization.static import quantize_for_tensorrt
from exporter.quantization.step import quantize
from exporter.tolerances import LOW_PRECISIONS
from runtime.manifest import VISION_FILE, Manifest
from runtime.profile import TargetProfile


def write_graph(checkpoint: Checkpoint, target: TargetProfile, directory: Path) -> None:
    """Load the weights, check the attention mask, and write model.onnx; of a model that takes
    images vision.onnx too. Raises CheckpointRefused and AttentionMismatch."""
    with stage("load the checkpoint"):
        model = load_model(checkpoint)
        probe(model, checkpoint.config["vocab_size"])
    with stage("write the ONNX graph"):
        if target.weights == "float32":
            model.body.narrow = True
        else:
            # On a GPU only once a card has shown that attention of one row stays its fast kernel.
            model.halve(getattr(torch, target.weights))
        if isinstance(model, NemotronVL):
            embeds = _several(model.blank_inputs(torch.ones(2, 5))[EMBEDS_INPUT])
            tiles = _several(torch.empty(0, 3, model.tile_size, model.tile_size))
            move_to_onnx(model.take_tower(), directory, VISION_FILE, {PIXELS_INPUT: tiles})
            move_to_onnx(model, directory, examples={EMBEDS_INPUT: embeds})
        else:
            move_to_onnx(model, directory)
        if target.operators == "onnxruntime-cuda":
            onnxruntime_cuda.adapt(directory)


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
