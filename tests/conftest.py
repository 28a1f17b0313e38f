"""Tiny checkpoints and an artifact of each kind exported from them, made once a session."""

from pathlib import Path

import pytest

from exporter.pipeline import Wish, export
from tests.tiny_checkpoints import write_bert, write_llama, write_llama_embedder


@pytest.fixture(scope="session")
def tiny_llama_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded random bidirectional Llama: grouped-query attention, llama3 rope scaling."""
    return write_llama(tmp_path_factory.mktemp("checkpoints") / "llama")


@pytest.fixture(scope="session")
def tiny_bert_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded random BERT cross-encoder with one logit."""
    return write_bert(tmp_path_factory.mktemp("checkpoints") / "bert")


@pytest.fixture(scope="session")
def rank_artifact(tiny_llama_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama as a finished artifact for cpu-fp32. Copy it before changing a file."""
    out = tmp_path_factory.mktemp("artifacts") / "rank"
    export(str(tiny_llama_checkpoint), out, Wish())
    return out


@pytest.fixture(scope="session")
def tiny_embed_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded random bidirectional Llama without a head: vectors of 64 components."""
    return write_llama_embedder(tmp_path_factory.mktemp("checkpoints") / "embed")


@pytest.fixture(scope="session")
def embed_artifact(tiny_embed_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It as a finished artifact for cpu-fp32. Copy it before changing a file."""
    out = tmp_path_factory.mktemp("artifacts") / "embed"
    export(str(tiny_embed_checkpoint), out, Wish())
    return out
