"""How each kind of model is proven: one object has the reference answers and checks the rungs.

The pipeline makes it before anything is written, runs its checks, and gets the goldens from it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, cast

import tokenizers

from exporter.answers import Reference, Text, Tokens, VectorReference, Vectors
from exporter.parity import EngineScores, check_scores, check_tokens, flatness, golden_tolerance
from exporter.report import Parity
from exporter.vector_parity import (
    check_text_tokens,
    check_vectors,
    cosines,
    vector_golden_tolerance,
)
from runtime.embedder import Embedder
from runtime.manifest import Golden, Manifest, VectorGolden
from runtime.model import Model
from runtime.ranker import Ranker
from runtime.vision.encoding import pair_encoder, text_encoder

GOLDENS = 4


class Proof(ABC):
    """The reference answers to the parity texts, which an artifact must reproduce."""

    @abstractmethod
    def rows(self) -> Iterator[Tokens]:
        """The tokens of every parity text or pair."""

    def record_cut(self, report: Parity, max_tokens: int) -> None:
        """Record in `report` that some rows were longer than `max_tokens`, and how they were
        compared: NIMs cut only the passage, which no loader does."""
        if cut := sum(len(row.token_ids) >= max_tokens for row in self.rows()):
            report.cut = (
                f"{cut} rows of {max_tokens} tokens or more: of a pair the passage alone is cut, "
                "and the witness's model is fed the ids that are kept"
            )

    @abstractmethod
    def flat(self) -> str | None:
        """The warning if the reference's scores barely differ, else None."""

    @abstractmethod
    def check_tokens(self, report: Parity, tokenizer: tokenizers.Tokenizer) -> None:
        """The first rung: records it in `report` and raises ParityFailed."""

    @abstractmethod
    def check_outputs(self, report: Parity, model: Model) -> None:
        """The other rungs, through the runtime's `model`; likewise."""

    @abstractmethod
    def goldens(self, report: Parity) -> Mapping[str, Any]:
        """Fields of the manifest: recorded answers of the engine, after all rungs.

        Never cut texts: goldens are encoded without truncation when the artifact is opened.
        """


def make_proof(manifest: Manifest, reference: Reference | VectorReference) -> Proof:
    """The proof for this draft with these answers."""
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

    def check_tokens(self, report: Parity, tokenizer: tokenizers.Tokenizer) -> None:
        """See Proof."""
        encoder = pair_encoder(self._manifest, tokenizer, self._manifest.max_tokens)
        check_tokens(report, self._reference, encoder)

    def check_outputs(self, report: Parity, model: Model) -> None:
        """See Proof."""
        self._scores = check_scores(report, self._reference, cast(Ranker, model))

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

    def check_tokens(self, report: Parity, tokenizer: tokenizers.Tokenizer) -> None:
        """See Proof."""
        encoder = text_encoder(self._manifest, tokenizer, self._manifest.max_tokens)
        check_text_tokens(report, self._reference, encoder)

    def check_outputs(self, report: Parity, model: Model) -> None:
        """See Proof."""
        self._alone = check_vectors(report, self._reference, cast(Embedder, model)).alone

    def goldens(self, report: Parity) -> Mapping[str, Any]:
        """See Proof: query and passage of the first groups, if they are uncut."""
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
