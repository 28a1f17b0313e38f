"""Families that are not exported today: each is refused by its name."""

from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from tests.zoo import sentence_files, vocabularies
from tests.zoo.case import Case
from tests.zoo.folders import write_json, write_tokenizer
from tests.zoo.weights import FILE, Step, save, seeded

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
_ONE = {"num_labels": 1}
_Row = tuple[str, str, str, dict[str, Any]]
_RANKERS: tuple[_Row, ...] = (
    ("bge-reranker-v2-gemma", "gemma", "GemmaForCausalLM", {}),
    ("Electra cross-encoder", "electra", "ElectraForSequenceClassification", _ONE),
    ("DistilBERT cross-encoder", "distilbert", "DistilBertForSequenceClassification", _ONE),
    ("MPNet cross-encoder", "mpnet", "MPNetForSequenceClassification", _ONE),
    ("ALBERT cross-encoder", "albert", "AlbertForSequenceClassification", _ONE),
)
_EMBEDDERS: tuple[_Row, ...] = (
    ("nomic-embed", "nomic_bert", "NomicBertModel", {}),
    ("MPNet embedder", "mpnet", "MPNetModel", {}),
    ("gte-multilingual", "gte", "GteModel", {}),
)


def _folder(model_type: str, class_name: str, changes: dict[str, Any]) -> Step:
    def step(directory: Path) -> None:
        words = vocabularies.llama()
        settings = _SIZES | {"vocab_size": words.get_vocab_size()} | changes
        whole = CONFIG_MAPPING[model_type](**settings).to_dict()
        whole |= {"architectures": [class_name], "model_type": model_type}
        write_tokenizer(directory, words, "PreTrainedTokenizerFast", vocabularies.LLAMA)
        write_json(directory / "config.json", whole)
        save(seeded(class_name, whole), directory / FILE)

    return step


CASES = (
    *(
        Case(family, "fp32", (_folder(kind, name, changes),), refused=name)
        for family, kind, name, changes in _RANKERS
    ),
    *(
        Case(
            family,
            "sentence-transformers 6",
            (_folder(kind, name, changes), sentence_files.embedder(6)),
            refused=name,
        )
        for family, kind, name, changes in _EMBEDDERS
    ),
)
