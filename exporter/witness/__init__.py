"""The loaders that users use: from a folder and raw texts to the final number.

What an artifact is proven by comes from here, so nothing in this package may look at how the rest
of the exporter reads a checkpoint: a fact that is read wrongly must not be wrong on both sides.
"""

from pathlib import Path
from typing import Any

from exporter.witness.adapters import Adapted, together, with_adapter
from exporter.witness.base import RankWitness, VectorWitness
from exporter.witness.files import prompts_of
from exporter.witness.llama import LLAMA_BIDIRECTIONAL, LlamaEmbedder, LlamaReranker
from exporter.witness.nemotron_vl import MODEL_TYPES as VISION_TYPES
from exporter.witness.nemotron_vl import VisionEmbedder, VisionReranker
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
        witness.name = with_adapter(witness.name)
        return witness
    if config.get("model_type") in VISION_TYPES:
        return VisionReranker(root, directory, config)
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
    adapted: Adapted | None = None,
) -> VectorWitness:
    """The witness of the embedder in `root`, whose weights lie in `directory`; where it is
    `adapted`, the tokenizer does.

    The folder is read here anew; the rest is what no file of it says. `published` are the prefixes,
    by input type, of a family whose folders may name none, `wished` those that were asked for, and
    `pooling` is one of avg, cls and last where that was. Raises NoWitness.
    """
    if adapted is not None:
        with together(root, directory, adapted) as places:
            witness = vector_witness(*places, config, published, wished, pooling)
        witness.name = with_adapter(witness.name)
        return witness
    if config.get("model_type") in VISION_TYPES:
        return VisionEmbedder(root, directory, config, published)
    llama = config.get("model_type") == LLAMA_BIDIRECTIONAL
    told = wished
    if told is None and (llama or published) and (told := prompts_of(root)) is None:
        told = published
    if llama:
        asked = config if pooling is None else {**config, "pooling": pooling}
        return LlamaEmbedder(root, directory, asked, told or {})
    return SentenceTransformerWitness(root, told, pooling)
