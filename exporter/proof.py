"""How each kind of model is proven: one object holds the checkpoint's answers and climbs.

The pipeline makes it before anything is written, sends it up the ladder, and asks it for goldens.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, cast

import tokenizers

from exporter.answers import Reference, Text, Tokens, VectorReference, Vectors
from exporter.parity import EngineScores, climb_scores, climb_tokens, flatness, golden_tolerance
from exporter.report import Parity
from exporter.vector_parity import (
    climb_text_tokens,
    climb_vectors,
    cosines,
    vector_golden_tolerance,
)
from runtime.embedder import Embedder
from runtime.manifest import Golden, Manifest, VectorGolden
from runtime.model import Model
from runtime.ranker import Ranker
from runtime.text import PairEncoder, TextEncoder
from runtime.vision.encoding import VisionPairEncoder

GOLDENS = 4


class Proof(ABC):
    """A checkpoint's own answers to the parity texts, which an artifact must give as well."""

    @abstractmethod
    def rows(self) -> Iterator[Tokens]:
        """The tokens of every parity text or pair."""

    def say_cut(self, report: Parity, max_tokens: int) -> None:
        """Record in `report` that some rows were longer than `max_tokens`, and how they were
        compared: no loader cuts as NIMs do, the passage alone."""
        if cut := sum(len(row.token_ids) >= max_tokens for row in self.rows()):
            report.cut = (
                f"{cut} rows of {max_tokens} tokens or more: of a pair the passage alone is cut, "
                "and the witness's model is fed the ids that are kept"
            )

    @abstractmethod
    def flat(self) -> str | None:
        """What to say where the reference's scores are all but the same."""

    @abstractmethod
    def climb_tokens(self, report: Parity, tokenizer: tokenizers.Tokenizer) -> None:
        """The first rung: records it in `report` and raises ParityFailed."""

    @abstractmethod
    def climb_outputs(self, report: Parity, model: Model) -> None:
        """The other rungs, through the runtime's `model`; likewise."""

    @abstractmethod
    def goldens(self, report: Parity) -> Mapping[str, Any]:
        """Fields of the manifest: recorded answers of the engine, after all rungs.

        They are never cut texts: whoever opens the artifact encodes them without truncation.
        """


def make_proof(manifest: Manifest, reference: Reference | VectorReference) -> Proof:
    """What proves an artifact of this draft by these answers."""
    texts: Proof
    if isinstance(reference, Reference):
        texts = RankProof(manifest, reference)
    else:
        texts = EmbedProof(manifest, reference)
    if reference.images is None:
        return texts
    from exporter.image_proof import ImageProof  # late: needs Pillow, and this module

    return ImageProof(texts, manifest, reference.images)


class RankProof(Proof):
    """Logits of pairs."""

    def __init__(self, manifest: Manifest, reference: Reference) -> None:
        self._manifest = manifest
        self._reference = reference
        self._scores = EngineScores([], [], [])

    def rows(self) -> Iterator[Tokens]:
        """See Proof."""
        return (row for rows in self._reference.tokens for row in rows)

    def flat(self) -> str | None:
        """See Proof."""
        return flatness(self._reference.logits, "scores")

    def climb_tokens(self, report: Parity, tokenizer: tokenizers.Tokenizer) -> None:
        """See Proof."""
        climb_tokens(report, self._reference, self._encoder(tokenizer))

    def _encoder(self, tokenizer: tokenizers.Tokenizer) -> PairEncoder:
        template, limit = self._manifest.template, self._manifest.max_tokens
        if self._manifest.vision is None or template is None:
            return PairEncoder(tokenizer, template, limit)
        return VisionPairEncoder(tokenizer, template, limit, self._manifest.vision)

    def climb_outputs(self, report: Parity, model: Model) -> None:
        """See Proof."""
        self._scores = climb_scores(report, self._reference, cast(Ranker, model))

    def goldens(self, report: Parity) -> Mapping[str, Any]:
        """See Proof: the first uncut pair of the first groups, scored alone."""
        goldens = [
            Golden(
                query=group.query,
                passage=group.passages[index],
                token_ids=tokens[index].token_ids,
                logit=float(alone[index]),
            )
            for group, tokens, alone in zip(
                self._reference.groups, self._reference.tokens, self._scores.alone, strict=True
            )
            for index in _uncut(tokens, self._manifest.max_tokens)[:1]
        ]
        return {"goldens": goldens[:GOLDENS], "golden_tolerance": golden_tolerance(report)}


class EmbedProof(Proof):
    """Vectors of texts."""

    def __init__(self, manifest: Manifest, reference: VectorReference) -> None:
        self._manifest = manifest
        self._reference = reference
        self._alone: list[Vectors] = []

    def rows(self) -> Iterator[Tokens]:
        """See Proof."""
        return (row for rows in self._reference.tokens for row in rows)

    def flat(self) -> str | None:
        """See Proof."""
        return flatness([cosines(rows) for rows in self._reference.vectors], "cosines")

    def climb_tokens(self, report: Parity, tokenizer: tokenizers.Tokenizer) -> None:
        """See Proof."""
        encoder = TextEncoder(tokenizer, self._manifest.prefixes, self._manifest.max_tokens)
        climb_text_tokens(report, self._reference, encoder)

    def climb_outputs(self, report: Parity, model: Model) -> None:
        """See Proof."""
        self._alone = climb_vectors(report, self._reference, cast(Embedder, model)).alone

    def goldens(self, report: Parity) -> Mapping[str, Any]:
        """See Proof: query and passage of the first groups, as far as they are uncut."""
        goldens = [
            _vector_golden(texts[index], tokens[index], alone[index])
            for texts, tokens, alone in zip(
                self._reference.texts, self._reference.tokens, self._alone, strict=True
            )
            for index in _uncut(tokens, self._manifest.max_tokens)[:2]
        ]
        return {
            "vector_goldens": goldens[:GOLDENS],
            "golden_tolerance": vector_golden_tolerance(report, self._reference),
        }


def _vector_golden(text: Text, tokens: Tokens, vector: Vectors) -> VectorGolden:
    return VectorGolden(
        text=text.text,
        input_type=text.input_type,
        token_ids=tokens.token_ids,
        vector=vector.tolist(),
    )


def _uncut(tokens: list[Tokens], max_tokens: int) -> list[int]:
    return [index for index, row in enumerate(tokens) if len(row.token_ids) < max_tokens]
