"""Tiny checkpoints, and the artifacts exported from them."""

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from exporter.pipeline import ExportArgs
from runtime.telemetry import disable_telemetry
from tests.shared_artifacts import exported_once, session_folder
from tests.tiny_checkpoints import write_bert, write_llama, write_llama_embedder
from tests.tiny_vision import embedder_config, write_vision

# The same examples everywhere, however slow the machine, and nothing written.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")

# A proxy of the machine would get the requests to servers that tests start.
for name in ("http_proxy", "https_proxy", "all_proxy"):
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)
# A GPU of the machine would change which engine is chosen.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

Exported = Callable[..., Path]


def pytest_configure() -> None:
    """Tests import libraries that would report."""
    disable_telemetry()


def pytest_collection_finish() -> None:
    """What all tests share, libraries and the tests themselves, is not looked through for garbage
    again: that took a sixth of the suite's time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """`exported(checkpoint, args=ExportArgs())`: its artifact, made once a session for all workers.

    Copy it before you change a file.
    """
    shared = session_folder(tmp_path_factory) / "artifacts"
    shared.mkdir(exist_ok=True)

    def get(checkpoint: Path | str, args: ExportArgs | None = None) -> Path:
        return exported_once(shared, Path(checkpoint), args or ExportArgs())

    return get


@pytest.fixture(scope="session")
def tiny_llama_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded random bidirectional Llama: grouped-query attention, llama3 rope scaling."""
    return write_llama(tmp_path_factory.mktemp("checkpoints") / "llama")


@pytest.fixture(scope="session")
def tiny_bert_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded random BERT cross-encoder with one logit."""
    return write_bert(tmp_path_factory.mktemp("checkpoints") / "bert")


@pytest.fixture(scope="session")
def tiny_embed_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded random bidirectional Llama without a head: vectors of 64 components."""
    return write_llama_embedder(tmp_path_factory.mktemp("checkpoints") / "embed")


@pytest.fixture(scope="session")
def rank_artifact(tiny_llama_checkpoint: Path, exported: Exported) -> Path:
    """The tiny Llama as a finished artifact for cpu-fp32. Copy it before you change a file."""
    return exported(tiny_llama_checkpoint)


@pytest.fixture(scope="session")
def embed_artifact(tiny_embed_checkpoint: Path, exported: Exported) -> Path:
    """The tiny embedder as a finished artifact for cpu-fp32. Copy it before you change a file."""
    return exported(tiny_embed_checkpoint)


@pytest.fixture(scope="session")
def vision_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded random reranker of texts and images."""
    return write_vision(tmp_path_factory.mktemp("checkpoints") / "vision")


@pytest.fixture(scope="session")
def vision_embed_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded random embedder of texts and images, of one layer each."""
    layer = {"num_hidden_layers": 1}
    config = embedder_config(vision_config=layer, llm_config=layer)
    return write_vision(tmp_path_factory.mktemp("checkpoints") / "vision-embed", config)


@pytest.fixture(scope="session")
def vision_artifact(vision_checkpoint: Path, exported: Exported) -> Path:
    """The reranker as a finished artifact for cpu-fp32. Copy it before you change a file."""
    return exported(vision_checkpoint)


@pytest.fixture(scope="session")
def vision_embed_artifact(vision_embed_checkpoint: Path, exported: Exported) -> Path:
    """The embedder as a finished artifact for cpu-fp32. Copy it before you change a file."""
    return exported(vision_embed_checkpoint)
