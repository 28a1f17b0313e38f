"""The loaders that users use: from a folder and raw texts to the final number.

What an artifact is proven by comes from here, so nothing in this package may look at how the rest
of the exporter reads a checkpoint: a fact that is read wrongly must not be wrong on both sides.
"""

from pathlib import Path
from typing import Any

from exporter.witness.base import RankWitness, VectorWitness
from exporter.witness.llama import LLAMA_BIDIRECTIONAL, LlamaEmbedder, LlamaReranker
from exporter.witness.sentence_transformers import CrossEncoderWitness, SentenceTransformerWitness


def rank_witness(
    root: Path, directory: Path, config: dict[str, Any], template: str | None
) -> RankWitness:
    """The witness of the reranker in `root`, whose weights lie in `directory` and whose config.json
    holds `config`.

    `template` is the prompt of a family that reads one text where the folder names none, or another
    one was wished. Raises NoWitness.
    """
    if config.get("model_type") == LLAMA_BIDIRECTIONAL:
        return LlamaReranker(root, directory, config, template)
    return CrossEncoderWitness(root)


def vector_witness(
    root: Path, directory: Path, config: dict[str, Any], prefixes: dict[str, str]
) -> VectorWitness:
    """The witness of the embedder in `root`, whose weights lie in `directory`.

    `prefixes` by input type are those of a family whose folders name none. Raises NoWitness.
    """
    if config.get("model_type") == LLAMA_BIDIRECTIONAL:
        return LlamaEmbedder(root, directory, config, prefixes)
    return SentenceTransformerWitness(root)
