"""Artifacts that several of this room's tests look at, and exports that need no new graph."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import runtime.engines
import runtime.selection
from exporter import building, target_graph
from exporter.pipeline import ExportArgs, quantize_artifact
from exporter.tensorrt_plan import Machine
from runtime.engines import tensorrt as engine_module
from runtime.engines.cudart import Cuda
from runtime.gpu import Gpu
from tests.conftest import Exported
from tests.exporter.targets import HALF
from tests.exporter.tensorrt_stand_in import TensorRt
from tests.runtime.engines.tensorrt_stand_in import FakeCudart, FakeTensorRt
from tests.shared_artifacts import made_once, session_folder
from tests.tiny_encoders import write_deberta, write_modernbert, write_xlm_roberta

H100 = Gpu("NVIDIA H100", "9.0", "x86_64", "580.65.06")
QuantizedOnce = Callable[..., Path]
ReadyGraph = Callable[[Path], None]


@pytest.fixture(scope="session")
def checkpoints(
    tiny_llama_checkpoint: Path,
    tiny_embed_checkpoint: Path,
    tiny_bert_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """A checkpoint of two layers of each family that is exported, by its name."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        "llama": tiny_llama_checkpoint,
        "embed": tiny_embed_checkpoint,
        "bert": tiny_bert_checkpoint,
        "xlm-roberta": write_xlm_roberta(root / "xlm-roberta", num_hidden_layers=2),
        "modernbert": write_modernbert(root / "modernbert", num_hidden_layers=2),
        "deberta": write_deberta(root / "deberta", num_hidden_layers=2),
    }


@pytest.fixture(scope="session")
def pair_artifact(tiny_bert_checkpoint: Path, exported: Exported) -> Path:
    """The tiny BERT as an artifact for cpu-fp32."""
    return exported(tiny_bert_checkpoint)


@pytest.fixture(scope="session")
def half_artifact(tiny_llama_checkpoint: Path, exported: Exported) -> Path:
    """The tiny Llama in float16 for cuda-fp16, proven on the CPU."""
    return exported(tiny_llama_checkpoint, HALF)


@pytest.fixture(scope="session")
def half_embed_artifact(tiny_embed_checkpoint: Path, exported: Exported) -> Path:
    """The tiny embedder in float16 for cuda-fp16, proven on the CPU."""
    return exported(tiny_embed_checkpoint, HALF)


@pytest.fixture(scope="session")
def planless(tiny_llama_checkpoint: Path, exported: Exported) -> Path:
    """The tiny Llama exported for tensorrt-fp16, without a plan yet. Copy it to change it."""
    return exported(tiny_llama_checkpoint, ExportArgs(target="tensorrt-fp16"))


@pytest.fixture(scope="session")
def quantized_once(tmp_path_factory: pytest.TempPathFactory) -> QuantizedOnce:
    """`coarsened(artifact, target, checkpoint=None)`: a shared artifact, quantized once a session
    for all workers. Copy it before you change it."""
    shared = session_folder(tmp_path_factory) / "quantized_once"
    shared.mkdir(exist_ok=True)

    def get(artifact: Path, target: str, checkpoint: Path | None = None) -> Path:
        against = checkpoint and str(checkpoint)
        name = f"{artifact.name}-{target}{'-proven' if against else ''}"
        return made_once(
            shared / name, lambda out: quantize_artifact(artifact, out, target, checkpoint=against)
        )

    return get


@pytest.fixture
def ready_graph(monkeypatch: pytest.MonkeyPatch) -> ReadyGraph:
    """Lets the exports of a test take an artifact's graph, where they would write the same one
    anew: that is more than half of their time."""

    def take(artifact: Path) -> None:
        def copy(_: object, directory: Path) -> None:
            shutil.copyfile(artifact / "model.onnx", directory / "model.onnx")

        monkeypatch.setattr(target_graph, "move_to_onnx", copy)

    return take


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with an H100 and TensorRT."""
    return equip(monkeypatch)


def equip(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make this one a machine with an H100 and TensorRT."""
    found = Machine(TensorRt(), H100)
    monkeypatch.setattr(building, "this_machine", lambda _: found)
    for module in (runtime.engines, runtime.selection):
        monkeypatch.setattr(module, "find_gpu", lambda: H100)
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRt())
    monkeypatch.setattr(engine_module, "open_cuda", lambda: Cuda(FakeCudart()))
    return found
