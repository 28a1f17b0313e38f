"""transformers' own classifiers of one text, as the witness of decoders with a score head."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from exporter.answers import Tokens
from exporter.witness.base import (
    RankWitness,
    Values,
    complete_weights,
    one_logit,
    row_of,
    trying,
)

# Their types in config.json.
DECODERS = ("llama", "mistral", "qwen2", "qwen3")
_LOCAL: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


class ClassifierWitness(RankWitness):
    """transformers' model on the prompt, one row a call: no file says how these models are fed."""

    def __init__(self, directory: Path, template: str) -> None:
        """Load `directory`; `template` has {query} and {passage}. Raises NoWitness."""
        kind = AutoModelForSequenceClassification
        with trying(f"transformers cannot load {directory}"), complete_weights():
            self._tokenizer = AutoTokenizer.from_pretrained(directory, **_LOCAL)
            self._model = kind.from_pretrained(directory, dtype=torch.float32, **_LOCAL).eval()
        self.name = f"transformers {transformers.__version__}, {type(self._model).__name__}"
        self._template = template

    def score(self, query: str, passage: str) -> tuple[Tokens, Values]:
        """See RankWitness."""
        # The passage last: nothing is searched for inside a text.
        head, tail = self._template.split("{passage}")
        text = head.replace("{query}", query) + passage + tail
        tokens = Tokens(self._tokenizer(text)["input_ids"], None)
        return tokens, self.values(tokens)

    @torch.inference_mode()
    def values(self, tokens: Tokens) -> Values:
        """See Witness."""
        found = self._model(**row_of(tokens), use_cache=False).logits[0]
        return one_logit(np.asarray(found.numpy(), np.float64))
