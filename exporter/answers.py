"""reference.json: the reference's answers to the parity texts.

The reference is the checkpoint's witness, or the fp32 artifact that was quantized. The file is part
of the artifact, so that a plan can be proven where it is built, without checkpoint and PyTorch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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

Scores = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tokens:
    """Token ids of one pair or text from the checkpoint's tokenizer; type ids if it has any."""

    token_ids: list[int]
    type_ids: list[int] | None


@dataclass(frozen=True)
class Reference:
    """The parity groups with the reference's answers.

    `witness` names their source; `images` are the answers about images, which reference.json does
    not have. `tokens[g][p]` and `logits[g]` float64 [passages] belong to
    passage p of `groups[g]`.
    """

    witness: str
    groups: tuple[Group, ...]
    tokens: list[list[Tokens]]
    logits: list[Scores]
    images: "ImageAnswers | None" = None

    def within(self, max_tokens: int) -> "Reference":
        """The groups without any row of more than `max_tokens`."""
        return self.only(_short_groups(self.tokens, max_tokens))

    def only(self, kept: Sequence[int]) -> "Reference":
        """The groups with these indexes."""
        return Reference(
            self.witness,
            tuple(self.groups[g] for g in kept),
            [self.tokens[g] for g in kept],
            [self.logits[g] for g in kept],
        )


@dataclass(frozen=True)
class Text:
    """One input of an embedder; `input_type` is None for models without input types.

    `label` names it in reports.
    """

    label: str
    text: str
    input_type: InputType | None


@dataclass(frozen=True)
class VectorReference:
    """The texts of the parity groups with the checkpoint's answers.

    `witness` names their source; `images` as in Reference. `texts[g][0]` is the query of
    `groups[g]`, passage p follows as `texts[g][p + 1]`; `tokens` and the rows of `vectors[g]`
    float64 [texts, dimensions] belong to them.
    """

    witness: str
    groups: tuple[Group, ...]
    texts: list[list[Text]]
    tokens: list[list[Tokens]]
    vectors: list[Vectors]
    images: "ImageAnswers | None" = None

    def within(self, max_tokens: int) -> "VectorReference":
        """The groups without any row of more than `max_tokens`."""
        return self.only(_short_groups(self.tokens, max_tokens))

    def only(self, kept: Sequence[int]) -> "VectorReference":
        """The groups with these indexes."""
        return VectorReference(
            self.witness,
            tuple(self.groups[g] for g in kept),
            [self.texts[g] for g in kept],
            [self.tokens[g] for g in kept],
            [self.vectors[g] for g in kept],
        )


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


def write_reference(directory: Path, reference: Reference | VectorReference) -> None:
    """Write reference.json."""
    content: _RankFile | _EmbedFile
    if isinstance(reference, Reference):
        logits = [found.tolist() for found in reference.logits]
        content = _RankFile(SCHEMA, reference.groups, reference.tokens, logits, reference.witness)
    else:
        vectors = [[row.astype("<f4").tobytes() for row in rows] for rows in reference.vectors]
        content = _EmbedFile(
            SCHEMA, reference.groups, reference.texts, reference.tokens, vectors, reference.witness
        )
    (directory / REFERENCE_FILE).write_bytes(msgspec.json.encode(content))


def read_reference(directory: Path) -> Reference | VectorReference:
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
        logits = [np.asarray(row, np.float64) for row in found.logits]
        return Reference(found.witness, found.groups, found.tokens, logits)
    vectors = [
        np.stack([np.frombuffer(row, "<f4").astype(np.float64) for row in rows])
        for rows in found.vectors
    ]
    return VectorReference(found.witness, found.groups, found.texts, found.tokens, vectors)


def _short_groups(tokens: list[list[Tokens]], max_tokens: int) -> list[int]:
    return [
        number
        for number, rows in enumerate(tokens)
        if all(len(row.token_ids) <= max_tokens for row in rows)
    ]
