"""transformers' own Llama, reading both ways: the witness of llama_bidirec checkpoints.

Their own class is remote code, which never runs. What it adds to LlamaModel (after NVIDIA's and
NeMo AutoModel's model.py): every token sees every other, states are pooled over the tokens, a
reranker's score is divided by the temperature, an embedder's vector gets length 1.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForSequenceClassification, LlamaModel

from exporter.answers import Tokens
from exporter.errors import NoWitness
from exporter.witness.adapters import apply_adapter, full_tensor_names
from exporter.witness.base import (
    RankWitness,
    Values,
    VectorWitness,
    complete_weights,
    one_logit,
    row_of,
    trying,
)
from exporter.witness.files import both_ways, modules_of, tokenizer_of, trained_template
from exporter.witness.tensors import stored_tensors
from runtime.postprocess import InputType

LLAMA_BIDIRECTIONAL = "llama_bidirec"
# Keys of the family's own class, and the pad token, which may be past the embeddings: rows here are
# never padded.
_NOT_LLAMAS = ("auto_map", "model_type", "pad_token_id")


class _Body:
    """The states of a LlamaModel, pooled."""

    def __init__(self, model: LlamaModel, config: dict[str, Any]) -> None:
        self._model = model
        causal = config.get("is_causal")
        if causal is None:
            causal = config.get("use_bidirectional_attention") is False
        self._causal = bool(causal)
        self._pooling = config.get("pooling") or "avg"
        if self._pooling not in ("avg", "cls", "last"):
            raise NoWitness(f"config.json has pooling = {self._pooling!r}, which it does not know")

    def pooled(self, tokens: Tokens) -> torch.Tensor:
        """float32 [hidden] of one row."""
        ids = row_of(tokens)["input_ids"]
        seen = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool)
        if self._causal:
            seen = seen.tril()
        found = self._model(input_ids=ids, attention_mask=seen, use_cache=False)
        states: torch.Tensor = found[0][0]
        if self._pooling == "avg":
            return states.mean(dim=0)
        return states[0 if self._pooling == "cls" else -1]


class LlamaReranker(RankWitness):
    """LlamaModel, mean of the states, the score head, divided by the temperature."""

    def __init__(
        self, root: Path, directory: Path, config: dict[str, Any], template: str | None
    ) -> None:
        """Load `directory`; `template` is the prompt with {query} and {passage}, None for the one
        that the folder `root` names. Raises NoWitness."""
        model = _load(LlamaForSequenceClassification, directory, config)
        self.name = both_ways("LlamaModel and its score head")
        self._body = _Body(model.model, config)
        self._score = model.score
        self._temperature = config.get("temperature") or 1.0
        self._tokenizer = tokenizer_of(directory)
        self._template = template if template is not None else trained_template(root)

    def score(self, query: str, passage: str) -> tuple[Tokens, Values]:
        """See RankWitness."""
        if self._template is None:
            text = self._tokenizer.apply_chat_template(
                [{"role": "query", "content": query}, {"role": "document", "content": passage}],
                tokenize=False,
            ).removeprefix(self._tokenizer.bos_token or "")
        else:
            head, tail = self._template.split("{passage}")
            text = head.replace("{query}", query) + passage + tail
        tokens = Tokens(self._tokenizer(text)["input_ids"], None)
        return tokens, self.values(tokens)

    @torch.inference_mode()
    def values(self, tokens: Tokens) -> Values:
        """See Witness."""
        logit = self._score(self._body.pooled(tokens)) / self._temperature
        return one_logit(np.asarray(logit.numpy(), np.float64))


class LlamaEmbedder(VectorWitness):
    """LlamaModel, pooled states, length 1 unless modules.json has no Normalize."""

    def __init__(
        self, root: Path, directory: Path, config: dict[str, Any], prefixes: dict[str, str]
    ) -> None:
        """Load `directory`; `prefixes` by input type go before texts, modules.json is in `root`.
        Raises NoWitness."""
        model = _load(LlamaModel, directory, config)
        self.name = both_ways("LlamaModel")
        self._body = _Body(model, config)
        self._tokenizer = tokenizer_of(directory)
        modules = modules_of(root)
        self._prefixes = prefixes
        self._normalizes = not modules or any(m.type.endswith("Normalize") for m in modules)

    def embed(self, text: str, input_type: InputType | None) -> tuple[Tokens, Values]:
        """See VectorWitness."""
        prefix = self._prefixes.get(input_type, "") if input_type else ""
        tokens = Tokens(self._tokenizer(prefix + text)["input_ids"], None)
        return tokens, self.values(tokens)

    @torch.inference_mode()
    def values(self, tokens: Tokens) -> Values:
        """See Witness."""
        vector = self._body.pooled(tokens)
        if self._normalizes:
            vector = functional.normalize(vector, dim=0)
        return np.asarray(vector.numpy(), np.float64)


def _load(kind: Any, directory: Path, config: dict[str, Any]) -> Any:
    known = {key: value for key, value in config.items() if key not in _NOT_LLAMAS}
    with (
        trying(f"transformers cannot load {directory} as {kind.__name__}"),
        complete_weights(full_tensor_names(directory)),
    ):
        model = kind.from_pretrained(
            None,
            config=LlamaConfig.from_dict(known),
            state_dict=stored_tensors(directory),
            dtype=torch.float32,
        ).eval()
        apply_adapter(model, directory)
        return model
