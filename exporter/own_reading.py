"""The exporter's own PyTorch model as a stand-in for a witness: for folders that no loader here can
load, and to diagnose a difference between graph and witness."""

import numpy as np
import torch

from exporter.answers import Tokens
from exporter.architectures.base import Architecture
from exporter.tokens import CheckpointTokenizer
from exporter.witness.base import RankWitness, Values, VectorWitness, Witness, row_of
from runtime.manifest import NOT_WITNESSED, Manifest
from runtime.postprocess import InputType


class _OwnReading:
    """The model of `exporter.architectures`, and texts as the manifest reads them."""

    def __init__(
        self, model: Architecture, tokenizer: CheckpointTokenizer, manifest: Manifest, why: str
    ) -> None:
        self.name = f"{NOT_WITNESSED}: {why}"
        self._model = model
        self._tokenizer = tokenizer
        self._prefixes = manifest.prefixes

    @torch.inference_mode()
    def values(self, tokens: Tokens) -> Values:
        """See Witness."""
        row = row_of(tokens)
        row |= self._model.blank_inputs(row["input_ids"])
        found = self._model(*(row[name] for name in self._model.inputs))[0]
        return np.asarray(found.numpy(), np.float64)


class _OwnRanking(_OwnReading, RankWitness):
    def score(self, query: str, passage: str) -> tuple[Tokens, Values]:
        """See RankWitness."""
        tokens, _ = self._tokenizer.encode(query, passage)
        return tokens, self.values(tokens)


class _OwnEmbedding(_OwnReading, VectorWitness):
    def embed(self, text: str, input_type: InputType | None) -> tuple[Tokens, Values]:
        """See VectorWitness."""
        tokens, _ = self._tokenizer.encode_text(self._prefixes.get(input_type or "", "") + text)
        return tokens, self.values(tokens)


def own_reading(
    model: Architecture, tokenizer: CheckpointTokenizer, manifest: Manifest, why: str
) -> Witness:
    """The stand-in for a witness; `why` says the reason."""
    kind = _OwnRanking if manifest.kind == "rank" else _OwnEmbedding
    return kind(model, tokenizer, manifest, why)
