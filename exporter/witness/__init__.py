"""The loaders that users use: from a folder and raw texts to the final number.

What an artifact is proven by comes from here, so nothing in this package may look at how the rest
of the exporter reads a checkpoint: a fact that is read wrongly must not be wrong on both sides.
"""

from pathlib import Path
from typing import Any

from exporter.witness.adapters import Adapted, together, told
from exporter.witness.base import RankWitness, VectorWitness
from exporter.witness.llama import LLAMA_BIDIRECTIONAL, LlamaEmbedder, LlamaReranker
from exporter.witness.sentence_transformers import CrossEncoderWitness, SentenceTransformerWitness


def rank_witness(
    root: Path,
    directory: Path,
    config: dict[str, Any],
    template: str | None,
    adapted: Adapted | None = None,
) -> RankWitness:
    """The witness of the reranker in `root`, whose weights lie in `directory` and whose config.json
    holds `config`; where it is `adapted`, the tokenizer lies in `directory`.

    `template` is the prompt of a family that reads one text where the folder names none, or another
    one was wished. Raises NoWitness.
    """
    if adapted is not None:
        with together(root, directory, adapted) as places:
            witness = rank_witness(*places, config, template)
        witness.name = told(witness.name)
        return witness
    if config.get("model_type") == LLAMA_BIDIRECTIONAL:
        return LlamaReranker(root, directory, config, template)
    return CrossEncoderWitness(root)


def vector_witness(
    root: Path,
    directory: Path,
    config: dict[str, Any],
    prefixes: dict[str, str],
    adapted: Adapted | None = None,
) -> VectorWitness:
    """The witness of the embedder in `root`, whose weights lie in `directory`; where it is
    `adapted`, the tokenizer does.

    `prefixes` by input type are those of a family whose folders name none. Raises NoWitness.
    """
    if adapted is not None:
        with together(root, directory, adapted) as places:
            witness = vector_witness(*places, config, prefixes)
        witness.name = told(witness.name)
        return witness
    if config.get("model_type") == LLAMA_BIDIRECTIONAL:
        return LlamaEmbedder(root, directory, config, prefixes)
    return SentenceTransformerWitness(root)
