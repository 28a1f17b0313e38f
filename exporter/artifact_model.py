"""A proven artifact as the reference for one that is quantized from it."""

from pathlib import Path

import numpy as np

from exporter.answers import Tokens
from exporter.tokens import CheckpointTokenizer
from exporter.witness.base import RankWitness, Values, VectorWitness, row_of
from runtime.engines import Engine, open_engine
from runtime.manifest import NOT_WITNESSED, Manifest, is_witnessed
from runtime.postprocess import InputType
from runtime.profile import load_target_profile


class _Artifact:
    """The artifact's own engine, and its tokenizer as transformers reads it."""

    def __init__(self, directory: Path, manifest: Manifest, tokenizer: CheckpointTokenizer) -> None:
        """Open the engine of `directory`; raises EngineError."""
        made_of = f"the {manifest.precision} artifact {manifest.version}"
        self.name = (
            f"{made_of}, whose witness is {manifest.witness}"
            if is_witnessed(manifest)
            else f"{NOT_WITNESSED}: made of {made_of}, which is not"
        )
        self._manifest = manifest
        self._tokenizer = tokenizer
        self._engine: Engine = open_engine(load_target_profile(manifest.target).engine, directory)

    def values(self, tokens: Tokens) -> Values:
        """See Witness."""
        row = row_of(tokens)
        inputs = {name: row[name].numpy() for name in self._manifest.inputs}
        found = self._engine.run(inputs)[self._manifest.outputs[0]]
        return np.asarray(found[0], np.float64)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()


class RankArtifact(_Artifact, RankWitness):
    """A reranker artifact."""

    def score(self, query: str, passage: str) -> tuple[Tokens, Values]:
        """See RankWitness."""
        tokens, _ = self._tokenizer.encode(query, passage)
        return tokens, self.values(tokens)


class VectorArtifact(_Artifact, VectorWitness):
    """An embedder artifact."""

    def embed(self, text: str, input_type: InputType | None) -> tuple[Tokens, Values]:
        """See VectorWitness."""
        prefix = self._manifest.prefixes.get(input_type or "", "")
        tokens, _ = self._tokenizer.encode_text(prefix + text)
        return tokens, self.values(tokens)
