"""reference.json: the reference's answers to the parity texts.

The reference is the checkpoint's witness, or the fp32 artifact that was quantized. The file is part
of the artifact, so that a plan can be proven where it is built, without checkpoint and PyTorch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from exporter.errors import ReportRefused
from exporter.parity_texts import Group
from runtime.manifest import NOT_WITNESSED
from runtime.model_files import read_file
from runtime.postprocess import InputType

SCHEMA = 1
REFERENCE_FILE = "reference.json"
# Some thousand tokens and a vector for each of the parity texts.
_MOST_BYTES = 1 << 30

if TYPE_CHECKING:  # which imports this
    from exporter.image_answers import ImageAnswers

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
class Reference:
    """The parity groups with the reference's answers, which `witness` names the source of.

    A reranker's rows are the pairs of a group, and their one component is the logit. An embedder's
    rows are `texts[g]`, the query and then the passages, and their components are the vector's;
    `texts` is None for a reranker. `tokens[g]` and `outputs[g]` float64 [rows, components] belong
    to the rows of `groups[g]`. `images` are the answers about images, which reference.json does
    not have.
    """

    witness: str
    groups: tuple[Group, ...]
    tokens: list[list[Tokens]]
    outputs: list[Outputs]
    texts: list[list[Text]] | None = None
    images: "ImageAnswers | None" = None

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
        """The groups without any row of more than `max_tokens`."""
        return self.only(
            [
                number
                for number, rows in enumerate(self.tokens)
                if all(len(row.token_ids) <= max_tokens for row in rows)
            ]
        )

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


class _RankFile(msgspec.Struct, tag_field="kind", tag="rank", frozen=True):
    schema: int
    groups: tuple[Group, ...]
    tokens: list[list[Tokens]]
    logits: list[list[float]]
    witness: str = NOT_WITNESSED


class _EmbedFile(msgspec.Struct, tag_field="kind", tag="embed", frozen=True):
    """`vectors` hold little-endian float32, the type that the checkpoint computed in."""

    schema: int
    groups: tuple[Group, ...]
    texts: list[list[Text]]
    tokens: list[list[Tokens]]
    vectors: list[list[bytes]]
    witness: str = NOT_WITNESSED


def write_reference(directory: Path, reference: Reference) -> None:
    """Write reference.json."""
    content: _RankFile | _EmbedFile
    groups, tokens, texts = reference.groups, reference.tokens, reference.texts
    if texts is None:
        logits = [found[:, 0].tolist() for found in reference.outputs]
        content = _RankFile(SCHEMA, groups, tokens, logits, reference.witness)
    else:
        vectors = [[row.astype("<f4").tobytes() for row in rows] for rows in reference.outputs]
        content = _EmbedFile(SCHEMA, groups, texts, tokens, vectors, reference.witness)
    (directory / REFERENCE_FILE).write_bytes(msgspec.json.encode(content))


def read_reference(directory: Path) -> Reference:
    """The reference.json of an artifact. Raises ReportRefused when it cannot be read."""
    path = directory / REFERENCE_FILE
    try:
        raw = read_file(directory, REFERENCE_FILE, _MOST_BYTES)
        found = msgspec.json.decode(raw, type=_RankFile | _EmbedFile)
    except OSError as error:
        raise ReportRefused(
            f"cannot read {path}: {error.strerror}; wanted the checkpoint's answers, export it "
            "again with this version"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ReportRefused(f"{path} cannot be used ({error}); export again") from error
    if found.schema != SCHEMA:
        raise ReportRefused(
            f"{path} has schema {found.schema}, wanted {SCHEMA}; export the checkpoint again with "
            "this version"
        )
    if isinstance(found, _RankFile):
        outputs = [np.asarray(row, np.float64)[:, None] for row in found.logits]
        return Reference(found.witness, found.groups, found.tokens, outputs)
    outputs = [
        np.stack([np.frombuffer(row, "<f4").astype(np.float64) for row in rows])
        for rows in found.vectors
    ]
    return Reference(found.witness, found.groups, found.tokens, outputs, found.texts)
