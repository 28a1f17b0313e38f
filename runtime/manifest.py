"""manifest.json: everything that decides an artifact's scores, written last by the exporter.

A directory is a finished artifact exactly when this file is in it and agrees with the others.
"""

import hashlib
import os
from pathlib import Path
from typing import Annotated

import msgspec

from runtime.engines import MODEL_FILE as MODEL_FILE
from runtime.engines import PLAN_FILE as PLAN_FILE
from runtime.errors import ArtifactError, FileChanged, ManifestError
from runtime.external_data import external_files
from runtime.postprocess import InputType
from runtime.profile import Kind, PaddingSide, Precision, Shapes, load_model_profile

SCHEMA = 1
MANIFEST_FILE = "manifest.json"
PARITY_FILE = "parity.json"
TOKENIZER_FILE = "tokenizer/tokenizer.json"

_HASH_CHUNK_BYTES = 8 << 20


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
    """What model.plan was built for; its sha256 stands among `Manifest.files`.

    `target` is the target profile, `shapes` its optimisation profiles in the plan's own order: the
    longest sequence among them bounds a row on this engine, whatever `Manifest.max_tokens` allows.
    `version_compatible` plans also run on later versions of TensorRT's same major version.
    `goldens` and `vector_goldens` of the manifest hold for the plan within `golden_tolerance`.
    """

    target: str
    precision: Precision
    shapes: list[Shapes]
    version_compatible: bool
    golden_tolerance: float


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of manifest.json.

    `version` is a short hash of graph, weights, tokenizer, template and limit: two artifacts with
    one version give the same scores. `template` is None where the tokenizer joins the pair.
    Embedders have `prefixes` (by input type, none for symmetric models), `dimensions` and
    `vector_goldens` instead of a template and `goldens`. `golden_tolerance` is the largest
    |Δ logit|, or |Δ| of a vector's component, that a golden may show when the artifact is opened.
    `files` maps paths relative to the directory to "sha256:<hex>"; manifest.json is not in it.
    `plan` and `hardware` describe model.plan, and are None exactly where there is none.
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
    """A manifest for what no export described: all it knows stands in the profile.

    It records no files and no goldens, so nothing can be checked against it.
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
    )


def read_manifest(directory: Path) -> Manifest:
    """The manifest of `directory`; ManifestError says what is wrong with it."""
    path = directory / MANIFEST_FILE
    try:
        raw = path.read_bytes()
        head = msgspec.json.decode(raw, type=dict[str, object])
        if head.get("schema") != SCHEMA:
            raise ManifestError(
                f"{MANIFEST_FILE} has schema {head.get('schema')!r}, wanted {SCHEMA}; "
                "export the checkpoint again with this version"
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except OSError as error:
        raise ManifestError(
            f"cannot read {path}: {error.strerror}; wanted an artifact written by rerank-export"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"{MANIFEST_FILE} cannot be used: {error}") from error
    for name in manifest.files:
        if not _stays_inside(directory, name):
            raise ManifestError(f"{MANIFEST_FILE} names {name!r}, which lies outside the artifact")
    return manifest


class _ParityHead(msgspec.Struct, frozen=True):
    """What the runtime needs of parity.json; the exporter knows the rest."""

    schema: int
    engine: str
    plan: "_ParityHead | None" = None


def proven_engines(directory: Path) -> list[str]:
    """The engines on which the artifact was proven: the export's, then the plan's if it has one.

    ManifestError for an unknown schema.
    """
    try:
        head = msgspec.json.decode((directory / PARITY_FILE).read_bytes(), type=_ParityHead)
    except OSError as error:
        raise ManifestError(f"cannot read {PARITY_FILE}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"{PARITY_FILE} cannot be used: {error}") from error
    if head.schema != SCHEMA:
        raise ManifestError(
            f"{PARITY_FILE} has schema {head.schema}, wanted {SCHEMA}; export the checkpoint again "
            "with this version"
        )
    return [head.engine, *([head.plan.engine] if head.plan else [])]


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write manifest.json, readable by people, so that it is there whole or not at all."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    partial = directory / (MANIFEST_FILE + ".partial")
    with partial.open("wb") as file:
        file.write(text + b"\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(directory / MANIFEST_FILE)


def hash_file(path: Path) -> str:
    """ "sha256:<hex>" of the file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def check_files(directory: Path, manifest: Manifest) -> None:
    """Compare every file with its recorded hash; FileChanged names the first that differs.

    Raises ManifestError when something that decides scores was never recorded, and ArtifactError
    when a file cannot be read.
    """
    for name, wanted in manifest.files.items():
        found = _hash_or_reason(directory / name, name)
        if found != wanted:
            raise FileChanged(name, found, wanted)
    # Only now: of a changed graph the hash says more than its parts.
    graph = directory / MODEL_FILE
    weights = external_files(graph) if graph.is_file() else set()
    parts = {*weights, *(path.name for path in directory.glob("model.*"))}
    decisive = [TOKENIZER_FILE, PARITY_FILE, *sorted(parts)]
    if unrecorded := [name for name in decisive if name not in manifest.files]:
        raise ManifestError(
            f"{MANIFEST_FILE} records no hash of {', '.join(unrecorded)}; export the checkpoint "
            "again"
        )
    if not (manifest.goldens or manifest.vector_goldens):
        raise ManifestError(f"{MANIFEST_FILE} records no goldens; export the checkpoint again")


def _hash_or_reason(path: Path, name: str) -> str:
    try:
        return hash_file(path)
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        raise ArtifactError(
            f"cannot read {name}: {error.strerror}; make it readable for user id {os.getuid()}, "
            "as which this process runs"
        ) from error


def _stays_inside(directory: Path, name: str) -> bool:
    resolved = (directory / name).resolve()
    return resolved.is_relative_to(directory.resolve())
