"""fastembed's TextCrossEncoder, its own tokenising and batches of 64, on our float32 graph."""

import shutil
from pathlib import Path

from fastembed.common.model_description import ModelSource
from fastembed.rerank.cross_encoder import TextCrossEncoder

from benchmarks.protocol import Score, Setting

_NAME = "bench/model"


def load(setting: Setting) -> Score:
    """Its scores are raw logits."""
    folder = _folder(setting)
    TextCrossEncoder.add_custom_model(
        model=_NAME, sources=ModelSource(url="none"), model_file="model.onnx"
    )
    model = TextCrossEncoder(_NAME, threads=setting.threads, specific_model_path=str(folder))
    return model.rerank


def _folder(setting: Setting) -> Path:
    """Graph, tokenizer and config side by side, where it looks for them."""
    folder = Path(setting.work)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    graph = Path(setting.graph).resolve()
    for file in (*graph.glob("model.onnx*"), *(graph / "tokenizer").iterdir()):
        (folder / file.name).symlink_to(file)
    for name in ("config.json", "special_tokens_map.json"):
        source = Path(setting.checkpoint).resolve() / name
        if source.is_file() and not (folder / name).exists():
            (folder / name).symlink_to(source)
    return folder
