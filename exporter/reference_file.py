"""reference.json: the reference's answers. It is part of the artifact, so that a plan can be proven
where it is built, without checkpoint and PyTorch.

Vectors and embeddings are little-endian float32, the type that the checkpoint computed in.
"""

import hashlib
from pathlib import Path

import msgspec
import numpy as np

from exporter.answers import ImageAnswer, ImageAnswers, Reference, Text, Tokens
from exporter.errors import ReportRefused
from exporter.parity_texts import Group
from runtime.manifest import NOT_WITNESSED
from runtime.model_files import read_file
from runtime.requests import Passage

SCHEMA = 1
REFERENCE_FILE = "reference.json"
# Some thousand tokens and a vector for each of the parity texts; 3 MB for each tile of an image.
_MOST_BYTES = 1 << 30
_FLOATS = "<f4"


class _Image(msgspec.Struct, frozen=True):
    """The bytes of a file, the sha256 of its pixels, and the embeddings of the shape [tiles,
    tokens, hidden]."""

    file: bytes
    pixels: str
    shape: tuple[int, int, int]
    embeds: bytes


class _ImageRow(msgspec.Struct, frozen=True):
    """An ImageAnswer; `image` is the sha256 of its file."""

    label: str
    query: str
    text: str
    image: str | None
    tokens: Tokens
    outputs: bytes


class _Images(msgspec.Struct, frozen=True):
    """ImageAnswers; each image is there once, however many rows show it, by its file's sha256."""

    images: dict[str, _Image]
    groups: list[list[_ImageRow]]
    queries: list[bytes]


class _RankFile(msgspec.Struct, tag_field="kind", tag="rank", frozen=True, omit_defaults=True):
    schema: int
    groups: tuple[Group, ...]
    tokens: list[list[Tokens]]
    logits: list[list[float]]
    witness: str = NOT_WITNESSED
    images: _Images | None = None


class _EmbedFile(msgspec.Struct, tag_field="kind", tag="embed", frozen=True, omit_defaults=True):
    schema: int
    groups: tuple[Group, ...]
    texts: list[list[Text]]
    tokens: list[list[Tokens]]
    vectors: list[list[bytes]]
    witness: str = NOT_WITNESSED
    images: _Images | None = None


def write_reference(directory: Path, reference: Reference) -> None:
    """Write reference.json."""
    content: _RankFile | _EmbedFile
    groups, tokens, texts = reference.groups, reference.tokens, reference.texts
    images = None if reference.images is None else _written_images(reference.images)
    if texts is None:
        logits = [found[:, 0].tolist() for found in reference.outputs]
        content = _RankFile(SCHEMA, groups, tokens, logits, reference.witness, images)
    else:
        vectors = [[_written(row) for row in rows] for rows in reference.outputs]
        content = _EmbedFile(SCHEMA, groups, texts, tokens, vectors, reference.witness, images)
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
    try:
        images = None if found.images is None else _read_images(found.images)
    except (KeyError, ValueError) as error:
        raise ReportRefused(f"{path} cannot be used (images: {error}); export again") from error
    if isinstance(found, _RankFile):
        outputs = [np.asarray(row, np.float64)[:, None] for row in found.logits]
        return Reference(found.witness, found.groups, found.tokens, outputs, images=images)
    outputs = [np.stack([_read(row) for row in rows]) for rows in found.vectors]
    return Reference(found.witness, found.groups, found.tokens, outputs, found.texts, images)


def _written(values: np.ndarray) -> bytes:
    return values.astype(_FLOATS).tobytes()


def _read(values: bytes) -> np.ndarray:
    return np.frombuffer(values, _FLOATS).astype(np.float64)


def _written_images(answers: ImageAnswers) -> _Images:
    images: dict[str, _Image] = {}

    def written(row: ImageAnswer) -> _ImageRow:
        digest, file = None, row.passage.image
        if isinstance(file, bytes) and row.embeds is not None and row.pixels is not None:
            digest = hashlib.sha256(file).hexdigest()
            if digest not in images:
                tiles, tokens, hidden = row.embeds.shape
                shape = tiles, tokens, hidden
                images[digest] = _Image(file, row.pixels, shape, _written(row.embeds))
        values = _written(row.outputs)
        return _ImageRow(row.label, row.query, row.passage.text, digest, row.tokens, values)

    groups = [[written(row) for row in group] for group in answers.groups]
    return _Images(images, groups, [_written(query) for query in answers.queries])


def _read_images(found: _Images) -> ImageAnswers:
    """Raises KeyError for an image that is not there, ValueError for one of another size."""
    embeds = {
        digest: np.frombuffer(image.embeds, _FLOATS).reshape(image.shape)
        for digest, image in found.images.items()
    }

    def read(row: _ImageRow) -> ImageAnswer:
        passage, pixels, seen = Passage(row.text), None, None
        if row.image is not None:
            image, seen = found.images[row.image], embeds[row.image]
            passage, pixels = Passage(row.text, image.file), image.pixels
        return ImageAnswer(
            row.label, row.query, passage, row.tokens, _read(row.outputs), pixels, seen
        )

    groups = [[read(row) for row in group] for group in found.groups]
    return ImageAnswers(groups, [_read(query) for query in found.queries])
