"""The reference's answers to the parity texts and images, which prove an artifact.

The reference is the checkpoint's witness, or the fp32 artifact that was quantized.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from exporter.parity_texts import Group
from runtime.postprocess import Floats, InputType
from runtime.requests import Passage

# What orders passages, float64 [passages]; and outputs of rows, float64 [rows, components].
Scores = npt.NDArray[np.float64]
Outputs = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tokens:
    """Token ids of one pair or text from the checkpoint's tokenizer; type ids if it has any."""

    token_ids: list[int]
    type_ids: list[int] | None


@dataclass(frozen=True)
class Text:
    """One input of an embedder; `input_type` is None for models without input types.

    `label` names it in reports.
    """

    label: str
    text: str
    input_type: InputType | None


@dataclass(frozen=True)
class ImageAnswer:
    """The answer about one passage, which `label` names in reports, and the `query` of its group:
    its tokens, cut at the end where they are too many, its outputs float64 [components] (a
    reranker's logit is one), and of its image the sha256 of the pixels and the embeddings
    float32 [tiles, tokens, hidden]."""

    label: str
    query: str
    passage: Passage
    tokens: Tokens
    outputs: npt.NDArray[np.float64]
    pixels: str | None = None
    embeds: Floats | None = None


@dataclass(frozen=True)
class ImageAnswers:
    """The answers by group; of an embedder also `queries[g]`, the vector float64 [components] of
    group g's query."""

    groups: list[list[ImageAnswer]]
    queries: list[npt.NDArray[np.float64]]

    def within(self, max_tokens: int) -> "ImageAnswers | None":
        """Those about rows of at most `max_tokens`; None if none of these has an image."""
        groups = [
            [row for row in group if len(row.tokens.token_ids) <= max_tokens]
            for group in self.groups
        ]
        if not any(row.embeds is not None for group in groups for row in group):
            return None
        kept = [number for number, group in enumerate(groups) if group]
        queries = [self.queries[number] for number in kept] if self.queries else []
        return ImageAnswers([groups[number] for number in kept], queries)


@dataclass(frozen=True)
class Reference:
    """The parity groups with the reference's answers, which `witness` names the source of.

    A reranker's rows are the pairs of a group, and their one component is the logit. An embedder's
    rows are `texts[g]`, the query and then the passages, and their components are the vector's;
    `texts` is None for a reranker. `tokens[g]` and `outputs[g]` float64 [rows, components] belong
    to the rows of `groups[g]`. `images` are the answers about images.
    """

    witness: str
    groups: tuple[Group, ...]
    tokens: list[list[Tokens]]
    outputs: list[Outputs]
    texts: list[list[Text]] | None = None
    images: ImageAnswers | None = None

    def labels(self) -> list[str]:
        """What reports call the rows of all groups."""
        if self.texts is None:
            return [one.label(index) for one in self.groups for index in range(len(one.passages))]
        return [text.label for texts in self.texts for text in texts]

    def scores(self, outputs: Sequence[Outputs]) -> list[Scores]:
        """What orders the passages of groups with these `outputs`: logits, or cosines to the
        query."""
        return [rows[:, 0] if self.texts is None else cosines(rows) for rows in outputs]

    def within(self, max_tokens: int) -> "Reference":
        """The groups without any row of more than `max_tokens`, and the images in such rows."""
        kept = [
            number
            for number, rows in enumerate(self.tokens)
            if all(len(row.token_ids) <= max_tokens for row in rows)
        ]
        images = None if self.images is None else self.images.within(max_tokens)
        return replace(self.only(kept), images=images)

    def only(self, kept: Sequence[int]) -> "Reference":
        """The groups with these indexes."""
        return replace(
            self,
            groups=tuple(self.groups[g] for g in kept),
            tokens=[self.tokens[g] for g in kept],
            outputs=[self.outputs[g] for g in kept],
            texts=None if self.texts is None else [self.texts[g] for g in kept],
        )


def cosines(vectors: Outputs) -> Scores:
    """The cosine of every later row of `vectors` [1 + n, d] to the first one, float64 [n]."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: Outputs = vectors / np.where(lengths > 0, lengths, 1.0)
    found: Scores = units[1:] @ units[0]
    return found
