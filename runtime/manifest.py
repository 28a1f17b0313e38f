"""manifest.json: everything that decides an artifact's scores, written last by the exporter.

A directory is a finished artifact exactly when this file is in it and agrees with the others.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from runtime.engines import MODEL_FILE as MODEL_FILE
from runtime.engines import PLAN_FILE as PLAN_FILE
from runtime.engines import VISION_FILE as VISION_FILE
from runtime.engines import VISION_PLAN_FILE as VISION_PLAN_FILE
from runtime.errors import ArtifactError, FileChanged, ManifestError
from runtime.external_data import external_files
from runtime.model_files import (
    GRAPH_BYTES,
    JSON_BYTES,
    LARGEST_BYTES,
    TOKENIZER_BYTES,
    Identity,
    find_file,
    identity,
    name_fault,
    open_file,
    read_file,
)
from runtime.outputs import write_json
from runtime.postprocess import Activation, InputType
from runtime.profile import (
    Kind,
    ModelProfile,
    PaddingSide,
    Precision,
    Shapes,
    Sizes,
    load_model_profile,
)
from runtime.template import filled
from runtime.vision.rule import Vision

T = TypeVar("T")

SCHEMA = 2
# Schema 1 had no activation: relevance was the sigmoid of every logit.
READABLE = (1, SCHEMA)
# The beginning of `Manifest.witness` if no common loader was a witness.
NOT_WITNESSED = "not witnessed"
MANIFEST_FILE = "manifest.json"
PARITY_FILE = "parity.json"
TOKENIZER_FILE = "tokenizer/tokenizer.json"
_MOST_BYTES = {
    PARITY_FILE: JSON_BYTES,
    TOKENIZER_FILE: TOKENIZER_BYTES,
    MODEL_FILE: GRAPH_BYTES,
    VISION_FILE: GRAPH_BYTES,
}

# Errors of decoding an invalid file; deep nesting raises RecursionError.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class SpecialTokens(msgspec.Struct, frozen=True, kw_only=True):
    """Token ids that the tokenizer adds by itself; None where it adds none."""

    bos: int | None
    eos: int | None
    pad: int


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded answer: these texts gave these ids (unpadded) and this logit at export."""

    query: str
    passage: str
    token_ids: list[int]
    logit: float


class VectorGolden(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded answer of an embedder: this text, embedded as `input_type`, gave these ids
    (unpadded) and this vector at export."""

    text: str
    input_type: InputType | None
    token_ids: list[int]
    vector: list[float]


class ImageGolden(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded answer about an image, the bytes of a PNG file: with this `text` beside it, for
    this `query` (of an embedder empty), it gave these ids (unpadded), pixels of this sha256, and
    these outputs, of a reranker one logit."""

    image: bytes
    query: str
    text: str
    token_ids: list[int]
    pixels: str
    outputs: list[float]


class PlanHardware(msgspec.Struct, frozen=True, kw_only=True):
    """The machine that a TensorRT plan was built on, and for.

    `gpu` is the device's name, `compute_capability` like "9.0", `cpu_architecture` like "x86_64",
    `driver` NVIDIA's driver version, `tensorrt` the full version of the library.
    """

    gpu: str
    compute_capability: str
    cpu_architecture: str
    driver: str
    tensorrt: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What model.plan was built for, and vision.plan of a model that takes images; their sha256 are
    in `Manifest.files`.

    `target` is the target profile, `shapes` its optimisation profiles in the plan's own order: the
    longest sequence among them limits a row on this engine, whatever `Manifest.max_tokens` allows.
    `tiles` are the least, best and most tiles of a call of vision.plan, None where there is none.
    `version_compatible` plans also run on later versions of TensorRT's same major version.
    The goldens of the manifest hold for the plan within `golden_tolerance`.
    """

    target: str
    precision: Precision
    shapes: list[Shapes]
    version_compatible: bool
    golden_tolerance: float
    tiles: Sizes | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of manifest.json.

    `version` is a short hash of graph, weights, tokenizer, prompt, limit, activation and `merged`:
    two artifacts with one version give the same scores. `template` is None where the tokenizer
    joins the pair; what goes with it, `instruction` to `tokenize_apart`, is as in a ModelProfile.
    Embedders have `prefixes` (by input type, none for symmetric models), `dimensions` and
    `vector_goldens` instead of a template and `goldens`; `activation` maps a reranker's logit to a
    relevance, and embedders have none. `golden_tolerance` is the largest |Δ logit|, or |Δ| of a
    vector's component, that a golden may show when the artifact is opened.
    `files` maps paths relative to the directory to "sha256:<hex>"; manifest.json is not in it.
    `witness` is the loader whose answers prove the scores, or says that there was none; `origins`
    are the places where facts were read. `merged` are the hashes, as in `files`, of what the
    weights were merged from, as base/<name> and adapter/<name>; without an adapter there are none.
    `own_profile` is the content of a user's own profile, whose file is then no longer needed; None
    for one of ours. `vision` describes vision.onnx, and is None for a text model; `image_goldens`
    are recorded answers about images. `plan` and `hardware` describe model.plan and
    vision.plan, and are None exactly if there is no plan.
    """

    schema: int
    kind: Kind
    model_id: str
    profile: str
    target: str
    version: str
    template: str | None
    special_tokens: SpecialTokens
    padding_side: PaddingSide
    max_tokens: Annotated[int, msgspec.Meta(ge=1)]
    pooling: str
    temperature: float
    causal: bool
    normalize: bool
    dimensions: int | None
    precision: str
    inputs: list[str]
    outputs: list[str]
    opset: int
    versions: dict[str, str]
    hardware: PlanHardware | None
    files: dict[str, str]
    goldens: list[Golden]
    golden_tolerance: float
    prefixes: dict[str, str] = {}
    vector_goldens: list[VectorGolden] = []
    plan: Plan | None = None
    witness: str | None = None
    origins: dict[str, str] = {}
    activation: Activation | None = None
    merged: dict[str, str] = {}
    own_profile: ModelProfile | None = None
    vision: Vision | None = None
    image_goldens: list[ImageGolden] = []
    instruction: str | None = None
    instruction_format: str | None = None
    tokenize_apart: bool = False

    @property
    def prompt(self) -> str | None:
        """The template with its default instruction."""
        if self.template is None or self.instruction is None:
            return self.template
        return filled(self.template, self.instruction, self.instruction_format)


def is_witnessed(manifest: Manifest) -> bool:
    """Whether a witness proves the scores, and not only the exporter's own model."""
    told = manifest.witness
    return manifest.schema > 1 and told is not None and not told.startswith(NOT_WITNESSED)


def unproven_manifest(
    profile: str,
    *,
    target: str,
    version: str,
    precision: str,
    pad_id: int,
    inputs: list[str],
    outputs: list[str],
    dimensions: int | None = None,
) -> Manifest:
    """A manifest for a directory without one, with facts of the profile alone.

    It has no files and no goldens, so nothing can be checked against it.
    """
    facts = load_model_profile(profile)
    return Manifest(
        schema=SCHEMA,
        kind=facts.kind,
        model_id=facts.id,
        profile=profile.rsplit("/", 1)[-1],
        target=target,
        version=version,
        template=facts.template,
        instruction=facts.instruction,
        instruction_format=facts.instruction_format,
        tokenize_apart=facts.tokenize_apart,
        special_tokens=SpecialTokens(bos=None, eos=None, pad=pad_id),
        padding_side=facts.padding_side,
        max_tokens=facts.max_tokens,
        pooling="unknown",
        temperature=1.0,
        causal=False,
        normalize=False,
        dimensions=dimensions or facts.dimensions,
        precision=precision,
        inputs=inputs,
        outputs=outputs,
        opset=0,
        versions={},
        hardware=None,
        files={},
        goldens=[],
        golden_tolerance=0.0,
        prefixes=facts.prefixes,
        activation="sigmoid" if facts.kind == "rank" else None,
    )


class _Head(msgspec.Struct, frozen=True):
    """The field that every version of a file has."""

    schema: int | None = None


def _read(directory: Path, name: str, kind: type[T]) -> T:
    """The file `name` as a `kind`. Raises OSError, and ManifestError for another schema or form."""
    raw = read_file(directory, name, JSON_BYTES)
    try:
        schema = msgspec.json.decode(raw, type=_Head).schema
        if schema not in READABLE:
            raise ManifestError(
                f"{name} has schema {schema!r}, wanted {SCHEMA}; export the checkpoint again with "
                "this version"
            )
        return msgspec.json.decode(raw, type=kind)
    except _UNREADABLE as error:
        raise ManifestError(f"{name} cannot be used: {error}") from error


def read_manifest(directory: Path) -> Manifest:
    """The manifest of `directory`; raises ManifestError."""
    try:
        manifest = _read(directory, MANIFEST_FILE, Manifest)
    except OSError as error:
        raise ManifestError(
            f"cannot read {directory / MANIFEST_FILE}: {error.strerror}; wanted an artifact "
            "written by rerank-export"
        ) from error
    if manifest.kind == "rank" and manifest.activation is None:
        if manifest.schema == SCHEMA:
            raise ManifestError(
                f"{MANIFEST_FILE} of a reranker has no activation, wanted one; export the "
                "checkpoint again"
            )
        manifest = msgspec.structs.replace(manifest, activation="sigmoid")
    for name in manifest.files:
        if fault := name_fault(name):
            raise ManifestError(
                f"{MANIFEST_FILE} names the file {name[:80]!r}, {fault}; export the checkpoint "
                "again"
            )
    return manifest


class _ParityHead(msgspec.Struct, frozen=True):
    """The fields of parity.json that the runtime reads."""

    schema: int
    engine: str
    plan: "_ParityHead | None" = None


def proven_engines(directory: Path) -> list[str]:
    """The engines on which the artifact was proven: the export's, then the plan's if it has one.

    ManifestError for an unknown schema.
    """
    try:
        head = _read(directory, PARITY_FILE, _ParityHead)
    except OSError as error:
        raise ManifestError(f"cannot read {PARITY_FILE}: {error.strerror}") from error
    return [head.engine, *([head.plan.engine] if head.plan else [])]


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write manifest.json, readable by people, atomically."""
    write_json(directory / MANIFEST_FILE, manifest)


def hash_file(path: Path, most_bytes: int = LARGEST_BYTES) -> str:
    """ "sha256:<hex>" of the regular file's bytes. Raises OSError."""
    with open_file(path, most_bytes) as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def check_files(directory: Path, manifest: Manifest) -> None:
    """Compare every file with its recorded hash; FileChanged names the first that differs.

    Raises ManifestError when a file that decides scores has no recorded hash, and ArtifactError
    when a file cannot be read.
    """
    for name, wanted in manifest.files.items():
        found = _hash_or_reason(directory, name)
        if found != wanted:
            raise FileChanged(name, found, wanted)
    # After the hashes: for a changed graph a wrong hash is the better message.
    graph = directory / MODEL_FILE
    weights = external_files(graph) if graph.is_file() else set()
    vision = directory / VISION_FILE
    weights |= external_files(vision) if vision.is_file() else set()
    found_parts = (path.name for kind in ("model.*", "vision.*") for path in directory.glob(kind))
    parts = {*weights, *found_parts}
    decisive = [TOKENIZER_FILE, PARITY_FILE, *sorted(parts)]
    if unrecorded := [name for name in decisive if name not in manifest.files]:
        raise ManifestError(
            f"{MANIFEST_FILE} records no hash of {', '.join(unrecorded)}; export the checkpoint "
            "again"
        )
    if not (manifest.goldens or manifest.vector_goldens):
        raise ManifestError(f"{MANIFEST_FILE} records no goldens; export the checkpoint again")


def identities(directory: Path, manifest: Manifest) -> Mapping[str, Identity | None]:
    """The current identities of the manifest's files."""
    return {name: identity(directory, name) for name in manifest.files}


def same_files(before: Mapping[str, Identity | None], after: Mapping[str, Identity | None]) -> bool:
    """Whether every file still exists with the same content."""
    pairs = ((one, after[name]) for name, one in before.items())
    return all(one is not None and now is not None and one.is_of(now) for one, now in pairs)


def _hash_or_reason(directory: Path, name: str) -> str:
    try:
        return hash_file(find_file(directory, name), _MOST_BYTES.get(name, LARGEST_BYTES))
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        raise ArtifactError(f"cannot read {name}: {error.strerror}") from error
