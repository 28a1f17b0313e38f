"""BERT: cross-encoders as ms-marco-MiniLM, embedders as all-MiniLM, bge and e5."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tests.zoo import vocabularies
from tests.zoo.case import Case
from tests.zoo.folders import write_json, write_tokenizer
from tests.zoo.weights import FILE, Step, save, seeded
from tests.zoo.witness import Embedder, Making, Ranker

BERT: dict[str, Any] = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
ONE_LABEL: dict[str, Any] = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
TWO_LABELS: dict[str, Any] = {
    "id2label": {"0": "no", "1": "yes"},
    "label2id": {"no": 0, "yes": 1},
}
CUT = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
PAD = {
    "strategy": {"Fixed": 64},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "[PAD]",
}
PAIR_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"


def folder(class_name: str, tokenizer: Tokenizer | None = None, **changes: Any) -> Step:
    """Weights of transformers' class, config.json and BERT's tokenizer."""

    def step(directory: Path) -> None:
        words = tokenizer or vocabularies.word_piece()
        settings = BERT | {"architectures": [class_name], "vocab_size": words.get_vocab_size()}
        settings |= changes
        write_tokenizer(directory, words, "BertTokenizer", vocabularies.BRACKETS)
        write_json(directory / "config.json", settings)
        save(seeded(class_name, settings), directory / FILE)

    return step


def ranker(layout: str, *steps: Step, witness: Making = Ranker, **expected: Any) -> Case:
    """A cross-encoder."""
    base = folder("BertForSequenceClassification", **ONE_LABEL)
    return Case("BERT cross-encoder", layout, (base, *steps), witness, **expected)


def embedder(layout: str, *steps: Step, witness: Making = Embedder, **expected: Any) -> Case:
    """An embedder; sentence-transformers' files come with `steps`."""
    return Case("BERT embedder", layout, (folder("BertModel"), *steps), witness, **expected)
