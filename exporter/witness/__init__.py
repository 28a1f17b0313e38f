"""The loaders that users use: from a folder and raw texts to the final number.

What an artifact is proven by comes from here, so nothing in this package may look at how the rest
of the exporter reads a checkpoint: a fact that is read wrongly must not be wrong on both sides.
"""

from pathlib import Path
from typing import Any

from exporter.witness.base import RankWitness, VectorWitness
from exporter.witness.files import prompts_of
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
    root: Path,
    directory: Path,
    config: dict[str, Any],
    published: dict[str, str],
    wished: dict[str, str] | None = None,
    pooling: str | None = None,
) -> VectorWitness:
    """The witness of the embedder in `root`, whose weights lie in `directory`.

    The folder is read here anew; the rest is what no file of it says. `published` are the prefixes,
    by input type, of a family whose folders may name none, `wished` those that were asked for, and
    `pooling` is one of avg, cls and last where that was. Raises NoWitness.
    """
    llama = config.get("model_type") == LLAMA_BIDIRECTIONAL
    told = wished
    if told is None and (llama or published) and (told := prompts_of(root)) is None:
        told = published
    if llama:
        asked = config if pooling is None else {**config, "pooling": pooling}
        return LlamaEmbedder(root, directory, asked, told or {})
    return SentenceTransformerWitness(root, told, pooling)
