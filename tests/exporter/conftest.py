"""Artifacts that only this room's tests need, exported once a session."""

from pathlib import Path

import pytest

from exporter.pipeline import Wish, export


@pytest.fixture(scope="session")
def pair_artifact(tiny_bert_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT as an artifact for cpu-fp32."""
    out = tmp_path_factory.mktemp("artifacts") / "pairs"
    export(str(tiny_bert_checkpoint), out, Wish())
    return out


@pytest.fixture(scope="session")
def half_artifact(tiny_llama_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama in float16 for cuda-fp16, proven on the CPU."""
    out = tmp_path_factory.mktemp("artifacts") / "half"
    export(str(tiny_llama_checkpoint), out, Wish(target="cuda-fp16", engine="onnxruntime-cpu"))
    return out
