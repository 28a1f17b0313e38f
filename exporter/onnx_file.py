"""Writing model.onnx: opset 23 with RMSNormalization, RotaryEmbedding and Attention as operators.

Optimisers fuse these patterns only in part, and none fuses rotary embeddings in half precision;
so the architectures call the operators themselves and nothing is fused here.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.onnx import ONNXProgram

from exporter.quiet import quiet
from runtime.engines import MODEL_FILE

OPSET = 23
# Above this, weights go into one file beside the graph: a protobuf message ends at 2 GiB, and
# a file beside it can be mapped into memory.
EXTERNAL_DATA_BYTES = 512 << 20


class Graph(Protocol):
    """What becomes a graph: the names of its inputs in order, and of its one output."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """In the order of `forward`."""

    @property
    def output(self) -> str:
        """The one."""


@dataclass(frozen=True)
class Example:
    """One input of a graph: a tensor like those that come, and the names of its dynamic axes by
    their numbers."""

    tensor: Tensor
    axes: dict[int, str]


def tokens_example() -> Example:
    """int64 [batch, sequence]. One tensor for several inputs would be taken for one input used
    several times."""
    return Example(torch.ones((2, 5), dtype=torch.int64), {0: "batch", 1: "sequence"})


def move_to_onnx(
    model: Graph,
    directory: Path,
    file: str = MODEL_FILE,
    examples: Mapping[str, Example] = MappingProxyType({}),
) -> None:
    """Write `file`, and beside it FILE.data when the weights exceed the threshold.

    The model is empty afterwards: its weights' memory is given back.

    Inputs are as `examples` by name say, all others int64 [batch, sequence]; one output float32:
    of a text graph `logits` [batch, 1] or `embeddings` [batch, dimensions]. The path of the data
    inside the graph is relative, so that the directory can be moved.
    """
    assert isinstance(model, nn.Module)
    given = [examples.get(name) or tokens_example() for name in model.inputs]
    with quiet("torch.onnx", "onnxscript", "onnx_ir"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converter about its own internals
        program = torch.onnx.export(
            model,
            tuple(example.tensor for example in given),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(model.inputs),
            output_names=[model.output],
            dynamic_shapes=[example.axes for example in given],
            verbose=False,
        )
        assert isinstance(program, ONNXProgram)
        _forget_origins(program)
        size = sum(p.nbytes for p in model.parameters())
        program.save(directory / file, external_data=size > EXTERNAL_DATA_BYTES)
    _give_back(program, model)


def save_graph(model: ModelProto, path: Path) -> None:
    """Write a graph that was changed after its export in place of that at `path`: the same two
    files, the same threshold."""
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    onnx.save(
        model,
        path,
        save_as_external_data=size > EXTERNAL_DATA_BYTES,
        location=f"{path.name}.data",
    )


def _give_back(program: ONNXProgram, model: nn.Module) -> None:
    """Empty both by hand: the converter keeps its last graph alive, and with it every tensor."""
    for value in program.model.graph.initializers.values():
        value.const_value = None
    for parameter in model.parameters():
        parameter.data = torch.empty(0)


def _forget_origins(program: ONNXProgram) -> None:
    """Drop stack traces: they name files of this machine and differ between two equal exports."""
    graph = program.model.graph
    for node in graph.all_nodes():
        node.metadata_props.clear()
    for value in (*graph.inputs, *graph.outputs):
        value.metadata_props.clear()
