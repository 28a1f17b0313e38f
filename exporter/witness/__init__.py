"""Witnesses: the loaders that users use, from a folder and raw texts to the final number.

Artifacts are proven against them. So nothing in this package may use how the rest of the exporter
reads a checkpoint: a fact that is read wrongly must not be wrong on both sides.
"""

from pathlib import Path
from typing import Any

from exporter.errors import NoWitness
from exporter.witness.adapters import Adapted, together, with_adapter
from exporter.witness.base import RankWitness, VectorWitness
from exporter.witness.decoders import DECODERS, ClassifierWitness, JudgeWitness, judges
from exporter.witness.files import modules_of, prompts_of, trained_template
from exporter.witness.llama import LLAMA_BIDIRECTIONAL, LlamaEmbedder, LlamaReranker
from exporter.witness.nemotron_vl import MODEL_TYPES as VISION_TYPES
from exporter.witness.nemotron_vl import VisionEmbedder, VisionReranker
from exporter.witness.sentence_transformers import CrossEncoderWitness, SentenceTransformerWitness


def rank_witness(
    root: Path,
    directory: Path,
    config: dict[str, Any],
    template: str | None,
    words: tuple[str, ...] = (),
    adapted: Adapted | None = None,
    apart: bool = False,
) -> RankWitness:
    """The witness of the reranker in `root`, with its weights in `directory` and the content
    `config` of config.json; if it is `adapted`, `directory` has the tokenizer.

    `template` is the prompt of a family that reads one text, if the folder names none or another
    one was requested; `words` are those by which a language model answers. With `apart` a decoder's
    query and passage each end a part that is tokenised by itself. Raises NoWitness.
    """
    if adapted is not None:
        with together(root, directory, adapted) as places:
            witness = rank_witness(*places, config, template, words, apart=apart)
        witness.name = with_adapter(witness.name)
        return witness
    if apart and config.get("model_type") not in DECODERS:
        raise NoWitness("its loader reads no prompt in parts (tokenize_apart of the profile)")
    if config.get("model_type") in VISION_TYPES:
        return VisionReranker(directory, config)
    if config.get("model_type") == LLAMA_BIDIRECTIONAL:
        return LlamaReranker(root, directory, config, template)
    if judges(config) and (template is not None or not modules_of(root)):
        prompt = trained_template(root) if template is None else template
        return JudgeWitness(root, directory, prompt, words, apart=apart)
    if config.get("model_type") in DECODERS and not judges(config):
        prompt = trained_template(root) if template is None else template
        if prompt is not None:
            return ClassifierWitness(directory, prompt, apart=apart)
    return CrossEncoderWitness(root)


def vector_witness(
    root: Path,
    directory: Path,
    config: dict[str, Any],
    published: dict[str, str],
    requested: dict[str, str] | None = None,
    pooling: str | None = None,
    adapted: Adapted | None = None,
) -> VectorWitness:
    """The witness of the embedder in `root`, with its weights in `directory`; if it is `adapted`,
    `directory` has the tokenizer.

    The witness reads the folder itself; the arguments are what no file in it says. `published` are
    the family's prefixes by input type, `requested` those of the options, and `pooling` is avg, cls
    or last if it was requested. Raises NoWitness.
    """
    if adapted is not None:
        with together(root, directory, adapted) as places:
            witness = vector_witness(*places, config, published, requested, pooling)
        witness.name = with_adapter(witness.name)
        return witness
    if config.get("model_type") in VISION_TYPES:
        return VisionEmbedder(directory, config, published)
    llama = config.get("model_type") == LLAMA_BIDIRECTIONAL
    prefixes = requested
    if prefixes is None and (llama or published) and (prefixes := prompts_of(root)) is None:
        prefixes = published
    if llama:
        asked = config if pooling is None else {**config, "pooling": pooling}
        return LlamaEmbedder(root, directory, asked, prefixes or {})
    return SentenceTransformerWitness(root, prefixes, pooling)
