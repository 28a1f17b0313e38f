"""Opening an artifact directory, or a bare NIM_CUSTOM_MODEL directory without a manifest."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
import tokenizers

from runtime.activation import CONFIG_FILE, SENTENCE_FILE, saved_activation
from runtime.batch import INPUT_NAMES
from runtime.daemon import run_in_daemon
from runtime.engines import ENGINES, Engine
from runtime.errors import ArtifactError, ManifestError
from runtime.hub_cache import snapshot_of
from runtime.manifest import (
    MANIFEST_FILE,
    SCHEMA,
    TOKENIZER_FILE,
    Manifest,
    check_files,
    identities,
    proven_engines,
    read_manifest,
    same_files,
    unproven_manifest,
)
from runtime.model_files import JSON_BYTES, find_file, is_there, read_file, real_directory
from runtime.postprocess import Activation
from runtime.profile import TargetProfile, load_target_profile
from runtime.selection import (
    AUTO,
    EngineOptions,
    default_engine,
    open_best,
    open_tower,
    serving_target,
    usual_target,
)
from runtime.shapes import PLACES_INPUT
from runtime.text import load_tokenizer

_log = logging.getLogger(__name__)

_BARE_PROFILE = "llama-nemotron-rerank-1b-v2"
_BARE_PAIR_PROFILE = "bert-cross-encoder"
_BARE_EMBED_PROFILE = "llama-nemotron-embed-1b-v2"
# The output that identifies an embedder's graph.
EMBEDDINGS_OUTPUT = "embeddings"
# NVIDIA's recipe exports embedders with the vector size as an input; we always pass the full size.
DIMENSIONS_INPUT = "dimensions"
_TOKENIZER_CONFIG = "tokenizer/tokenizer_config.json"


@dataclass(frozen=True)
class Wanted:
    """How a directory is to be opened.

    `engine` None means the plan's engine, else the target's; AUTO and ONNX choose the best that
    fits (`runtime.selection`). `target` is the target that the graph or plan must have been
    exported for; None accepts any. `profile` describes a directory without a manifest.
    """

    engine: str | None
    target: str | None
    profile: str | None
    options: EngineOptions


@dataclass(frozen=True)
class OpenArtifact:
    """The parts of a model. `target` has the limits of its engine calls; `proven` says whether an
    export proved these scores; `tower` is the vision engine of a model that takes images."""

    manifest: Manifest
    engine: Engine
    tokenizer: tokenizers.Tokenizer
    target: TargetProfile
    proven: bool
    tower: Engine | None = None

    def close(self) -> None:
        """Close the engines."""
        self.engine.close()
        if self.tower is not None:
            self.tower.close()


def open_artifact(directory: Path, manifest: Manifest | None, wanted: Wanted) -> OpenArtifact:
    """Open engine and tokenizer of `directory` and check its files against the manifest.

    A given `manifest` is used unchecked (by the exporter, before manifest.json exists). Raises
    ArtifactError or EngineError.
    """
    if manifest is not None:
        return _open_described(directory, manifest, wanted)
    if not is_there(directory, MANIFEST_FILE):
        return _open_bare(directory, wanted)
    manifest = read_manifest(directory)
    _check_args(manifest, wanted.target, wanted.profile)
    if manifest.schema < SCHEMA:
        _log.warning(
            "%s has schema %d, so these scores are not witnessed: run `rerank-export verify "
            "--checkpoint` on the artifact, or export the checkpoint again",
            MANIFEST_FILE,
            manifest.schema,
        )
    before = identities(directory, manifest)
    # Hashing reads the pages that the session maps, so doing both at once costs little.
    hashed = run_in_daemon(partial(check_files, directory, manifest), "hasher")
    try:
        opened = _open_described(directory, manifest, wanted)
    except Exception:
        hashed.result()  # a changed file is a better explanation than the engine's error
        raise
    with closed_on_error(opened):
        hashed.result()
        if not same_files(before, identities(directory, manifest)):
            raise ArtifactError(
                "files of the artifact were replaced while it was opened; open it again when all "
                "of them are there"
            )
        _warn_unproven_engine(directory, opened.engine)
    return opened


def find_directory(directory: Path) -> Path:
    """`directory` with all links resolved, so that all files come from one directory even if a link
    is swapped meanwhile. For a repository in the hub's cache, its snapshot. Raises
    ArtifactError."""
    try:
        return real_directory(snapshot_of(directory))
    except OSError as error:
        raise ArtifactError(
            f"cannot open the directory {directory.name!r}: {error.strerror}; wanted an artifact "
            "written by rerank-export"
        ) from error


def _warn_unproven_engine(directory: Path, engine: Engine) -> None:
    proven = proven_engines(directory)
    if engine.name not in proven:
        _log.warning(
            "proven on engine %s, runs on %s: run `rerank-export verify` with the checkpoint here",
            ", ".join(proven),
            engine.name,
        )


class _Closeable(Protocol):
    def close(self) -> None: ...


@contextmanager
def closed_on_error(opened: _Closeable) -> Iterator[None]:
    """Close `opened` if the block raises, because nobody else will."""
    try:
        yield
    except BaseException:
        opened.close()
        raise


def _check_args(manifest: Manifest, target: str | None, profile: str | None) -> None:
    if profile is not None and profile.rsplit("/", 1)[-1] != manifest.profile:
        raise ManifestError(
            f"the artifact was exported with profile {manifest.profile}, found a request for "
            f"{profile}; a profile can be named for a directory without {MANIFEST_FILE} only"
        )
    made_for = [manifest.target, *([manifest.plan.target] if manifest.plan else [])]
    if target is not None and target not in made_for:
        raise ManifestError(
            f"the artifact was made for target {' and '.join(made_for)}, found a request for "
            f"{target}; export the checkpoint with --target {target}"
            + (
                f", or build the plan: rerank-export build DIR --target {target}"
                if load_target_profile(target).engine == "tensorrt"
                else ""
            )
        )


def _open_described(directory: Path, manifest: Manifest, wanted: Wanted) -> OpenArtifact:
    tokenizer = _load_tokenizer(directory)
    _refuse_unknown_pad(manifest, tokenizer)
    own_target = load_target_profile(manifest.target)
    requested = wanted.engine or default_engine(manifest, own_target, wanted.target)
    opened = open_best(directory, requested, manifest, own_target, wanted.options)
    found = [sorted(opened.input_names), sorted(opened.output_names)]
    # A Triton's Python model finds the places of packed graphs by itself.
    spared = {PLACES_INPUT} if opened.device == "remote" else set()
    recorded = [sorted({*manifest.inputs} - spared), sorted(manifest.outputs)]
    with closed_on_error(opened):
        if found != recorded:
            raise ManifestError(
                f"the graph has inputs and outputs {found}, {MANIFEST_FILE} says {recorded}; "
                "export the checkpoint again"
            )
        tower = None
        if manifest.vision is not None:
            tower = open_tower(directory, opened.name, wanted.options)
    return OpenArtifact(
        _of_plan(manifest) if opened.name == "tensorrt" else manifest,
        opened,
        tokenizer,
        serving_target(opened.name, manifest, own_target),
        proven=bool(manifest.files),
        tower=tower,
    )


def _load_tokenizer(directory: Path) -> tokenizers.Tokenizer:
    try:
        find_file(directory, TOKENIZER_FILE)
    except OSError as error:
        raise ArtifactError(
            f"cannot read {TOKENIZER_FILE}: {error.strerror}; copy the checkpoint's tokenizer "
            "files into the folder tokenizer/"
        ) from error
    return load_tokenizer(directory / TOKENIZER_FILE)


def _refuse_unknown_pad(manifest: Manifest, tokenizer: tokenizers.Tokenizer) -> None:
    pad = manifest.special_tokens.pad
    largest = max(tokenizer.get_vocab().values(), default=0)
    if not 0 <= pad <= largest:
        raise ManifestError(
            f"{MANIFEST_FILE} pads with token {pad}, the tokenizer's go from 0 to {largest}; "
            "export the checkpoint again"
        )


def _of_plan(manifest: Manifest) -> Manifest:
    """The manifest with the plan's own target, precision and tolerance."""
    plan = manifest.plan
    if plan is None:
        return manifest
    return msgspec.structs.replace(
        manifest,
        target=plan.target,
        precision=plan.precision,
        golden_tolerance=plan.golden_tolerance,
    )


def _open_bare(directory: Path, wanted: Wanted) -> OpenArtifact:
    """Open a directory with only a graph and tokenizer/; every guessed fact is logged."""
    if not any(is_there(directory, file) for _, file in ENGINES.values() if file):
        raise ArtifactError(
            f"found none of {MANIFEST_FILE}, model.onnx and model.plan in the directory; mount an "
            "artifact (rerank-export export CHECKPOINT --out DIR makes one of a checkpoint), or a "
            "directory with tokenizer/ and one of these (a model.engine is a plan: rename it to "
            "model.plan)"
        )
    tokenizer = _load_tokenizer(directory)
    own_target = load_target_profile(wanted.target) if wanted.target else None
    requested = wanted.engine or (own_target.engine if own_target else AUTO)
    opened = open_best(directory, requested, None, own_target, wanted.options)
    with closed_on_error(opened):
        own_target = own_target or usual_target(opened.name)
        manifest = _inferred_manifest(directory, opened, tokenizer, own_target, wanted.profile)
    limits = serving_target(opened.name, manifest, own_target)
    return OpenArtifact(manifest, opened, tokenizer, limits, proven=False)


def _inferred_manifest(
    directory: Path,
    engine: Engine,
    tokenizer: tokenizers.Tokenizer,
    target: TargetProfile,
    profile: str | None,
) -> Manifest:
    known = {*INPUT_NAMES, DIMENSIONS_INPUT}
    if unknown := set(engine.input_names) - known:
        raise ArtifactError(
            f"the graph takes {', '.join(sorted(unknown))}, wanted only {', '.join(INPUT_NAMES)}; "
            "export the checkpoint with rerank-export"
        )
    name = profile or _profile_of(engine)
    pad = _pad_id(directory, tokenizer)
    manifest = unproven_manifest(
        name,
        target=target.name,
        version="unproven",
        precision="unknown",
        pad_id=pad,
        inputs=engine.input_names,
        outputs=engine.output_names,
    )
    ends = f"inputs {engine.input_names} and outputs {engine.output_names}"
    how = "named" if profile else f"inferred from the graph's {ends}"
    _log.warning("no %s: these scores were never proven against a checkpoint", MANIFEST_FILE)
    _log.warning("no %s: profile %s (%s)", MANIFEST_FILE, name, how)
    prompt = manifest.prefixes if manifest.kind == "embed" else manifest.template
    _log.warning("no %s: kind %s, prompt %r (profile)", MANIFEST_FILE, manifest.kind, prompt)
    _log.warning("no %s: at most %d tokens (profile)", MANIFEST_FILE, manifest.max_tokens)
    if manifest.kind == "rank":
        saved = _activation(directory)
        manifest = msgspec.structs.replace(manifest, activation=saved or manifest.activation)
        whose = "saved with the checkpoint" if saved else "no file names another"
        _log.warning("no %s: relevance by %s (%s)", MANIFEST_FILE, manifest.activation, whose)
    _log.warning("no %s: padding %s with id %d", MANIFEST_FILE, manifest.padding_side, pad)
    return manifest


def _activation(directory: Path) -> Activation | None:
    """The activation in the checkpoint's own files, if they lie beside the graph."""
    try:
        found = saved_activation(*(_settings(directory, n) for n in (CONFIG_FILE, SENTENCE_FILE)))
    except ValueError as error:
        raise ArtifactError(str(error)) from None
    return None if found is None else found[0]


def _settings(directory: Path, name: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(read_file(directory, name, JSON_BYTES), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ArtifactError(f"cannot read {name}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(
            f"{name} cannot be used ({error}); copy it from the checkpoint again, or leave it out"
        ) from error


def _profile_of(engine: Engine) -> str:
    if EMBEDDINGS_OUTPUT in engine.output_names:
        return _BARE_EMBED_PROFILE
    return _BARE_PAIR_PROFILE if "token_type_ids" in engine.input_names else _BARE_PROFILE


class _AddedToken(msgspec.Struct, frozen=True):
    content: str


class _PadTokens(msgspec.Struct, frozen=True):
    """The padding candidates of tokenizer_config.json. Each is decoded by itself, so that an
    unknown form of one does not hide the other."""

    pad_token: msgspec.Raw = msgspec.Raw(b"null")
    eos_token: msgspec.Raw = msgspec.Raw(b"null")


def _pad_id(directory: Path, tokenizer: tokenizers.Tokenizer) -> int:
    """The padding id: the configured pad token, else EOS, else 0 (masked out anyway)."""
    try:
        raw = read_file(directory, _TOKENIZER_CONFIG, JSON_BYTES)
        config = msgspec.json.decode(raw, type=_PadTokens)
    except (FileNotFoundError, msgspec.DecodeError, RecursionError):
        return 0
    except OSError as error:
        raise ArtifactError(f"cannot read {_TOKENIZER_CONFIG}: {error.strerror}") from error
    for token in (config.pad_token, config.eos_token):
        text = _token_text(token)
        found = None if text is None else tokenizer.token_to_id(text)
        if found is not None:
            return int(found)
    return 0


def _token_text(raw: msgspec.Raw) -> str | None:
    """The text of a token, plain or as a transformers AddedToken; None for anything else."""
    try:
        token = msgspec.json.decode(raw, type=str | _AddedToken | None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return token.content if isinstance(token, _AddedToken) else token
