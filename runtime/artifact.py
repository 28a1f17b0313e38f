"""Opening what lies in a directory: a finished artifact, or a bare NIM_CUSTOM_MODEL directory."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import tokenizers

from runtime.batch import INPUT_NAMES
from runtime.engines import ENGINES, Engine, open_engine
from runtime.errors import ArtifactError, EngineError, EngineUnavailable, ManifestError
from runtime.external_data import check_external_files
from runtime.manifest import (
    MANIFEST_FILE,
    TOKENIZER_FILE,
    Manifest,
    check_files,
    proven_engine,
    read_manifest,
    unproven_manifest,
)
from runtime.profile import load_target_profile
from runtime.text import load_tokenizer

_log = logging.getLogger(__name__)

# Best first; `auto` takes the first that opens.
_PREFERENCE = ("onnxruntime-cuda", "onnxruntime-cpu")
_BARE_PROFILE = "llama-nemotron-rerank-1b-v2"
_BARE_PAIR_PROFILE = "bert-cross-encoder"
_BARE_EMBED_PROFILE = "llama-nemotron-embed-1b-v2"
# The output by which an embedder's graph is known.
EMBEDDINGS_OUTPUT = "embeddings"
# NVIDIA's recipe exports embedders with the wished size as an input; it is always the full one.
DIMENSIONS_INPUT = "dimensions"
_BARE_TARGETS = {"onnxruntime-cpu": "cpu-fp32", "onnxruntime-cuda": "cuda-fp16"}
# Graphs that only the engine that they were written for computes well, or at all.
_BOUND_PRECISIONS = {"bf16", "int8", "int8-weights"}


@dataclass(frozen=True)
class OpenArtifact:
    """What a model is made of; `proven` says whether an export proved these scores."""

    manifest: Manifest
    engine: Engine
    tokenizer: tokenizers.Tokenizer
    proven: bool


def open_artifact(
    directory: Path,
    *,
    manifest: Manifest | None,
    engine: str | None,
    target: str | None,
    profile: str | None,
) -> OpenArtifact:
    """Open engine and tokenizer of `directory` and check its files against the manifest.

    `manifest` given: used as it is, unchecked (the exporter, before manifest.json exists).
    `engine` None means the one of the target, "auto" the best that opens here. `target` is what
    the artifact must have been exported for; None takes whatever it was. Raises ArtifactError or
    EngineError.
    """
    if not directory.is_dir():
        raise ArtifactError(f"found no directory {directory.name!r}, wanted an exported artifact")
    if manifest is not None:
        return _open_described(directory, manifest, engine)
    if not (directory / MANIFEST_FILE).is_file():
        return _open_bare(directory, engine, target, profile)
    manifest = read_manifest(directory)
    _check_wishes(manifest, target, profile)
    # Hashing reads the same pages that the session maps, so doing both at once costs little.
    with ThreadPoolExecutor(max_workers=1) as pool:
        hashed = pool.submit(check_files, directory, manifest)
        try:
            opened = _open_described(directory, manifest, engine)
        except (ArtifactError, EngineError):
            hashed.result()  # a changed file explains more than the engine's complaint about it
            raise
        with closed_on_error(opened.engine):
            hashed.result()
            _tell_unproven_engine(directory, opened.engine)
    return opened


def _tell_unproven_engine(directory: Path, engine: Engine) -> None:
    proven = proven_engine(directory)
    if proven != engine.name:
        _log.warning(
            "proven on engine %s, runs on %s: run `rerank-export verify` with the checkpoint here",
            proven,
            engine.name,
        )


@contextmanager
def closed_on_error(engine: Engine) -> Iterator[None]:
    """Close `engine` when the block raises: nobody will hold it then."""
    try:
        yield
    except BaseException:
        engine.close()
        raise


def _check_wishes(manifest: Manifest, target: str | None, profile: str | None) -> None:
    if profile is not None and profile.rsplit("/", 1)[-1] != manifest.profile:
        raise ManifestError(
            f"the artifact was exported with profile {manifest.profile}, found a request for "
            f"{profile}; a profile can be named for a directory without {MANIFEST_FILE} only"
        )
    if target is not None and target != manifest.target:
        raise ManifestError(
            f"the artifact was exported for target {manifest.target}, found a request for "
            f"{target}; export the checkpoint with --target {target}"
        )


def _open_described(directory: Path, manifest: Manifest, engine: str | None) -> OpenArtifact:
    tokenizer = load_tokenizer(directory / TOKENIZER_FILE)
    target = load_target_profile(manifest.target)
    bound = engine == "auto" and target.precision in _BOUND_PRECISIONS
    opened = _open(directory, target.engine if bound or engine is None else engine)
    found = [sorted(opened.input_names), sorted(opened.output_names)]
    wanted = [sorted(manifest.inputs), sorted(manifest.outputs)]
    with closed_on_error(opened):
        if found != wanted:
            raise ManifestError(
                f"the graph has inputs and outputs {found}, {MANIFEST_FILE} says {wanted}; "
                "export the checkpoint again"
            )
    return OpenArtifact(manifest, opened, tokenizer, proven=bool(manifest.files))


def _open(directory: Path, wanted: str) -> Engine:
    graph = directory / "model.onnx"
    if graph.is_file():
        check_external_files(graph)
    if wanted != "auto":
        return open_engine(wanted, directory)
    refusals = []
    for name in _PREFERENCE:
        try:
            engine = open_engine(name, directory)
        except EngineUnavailable as error:
            refusals.append(str(error))
            continue
        _log.info("auto chose engine %s%s", name, "".join(f"; {r}" for r in refusals))
        return engine
    raise EngineUnavailable(f"no engine can open this artifact: {'; '.join(refusals)}")


def _open_bare(
    directory: Path, engine: str | None, target: str | None, profile: str | None
) -> OpenArtifact:
    """A directory with a graph and tokenizer/ only; every fact that is guessed is logged."""
    if not any((directory / file).is_file() for _, file in ENGINES.values() if file):
        raise ArtifactError(
            f"found neither {MANIFEST_FILE} nor model.onnx in the directory; mount an artifact "
            "written by rerank-export, or a directory with model.onnx and tokenizer/"
        )
    tokenizer = load_tokenizer(directory / TOKENIZER_FILE)
    own = load_target_profile(target).engine if target else "auto"
    opened = _open(directory, engine or own)
    with closed_on_error(opened):
        manifest = _inferred_manifest(directory, opened, tokenizer, target, profile)
    return OpenArtifact(manifest, opened, tokenizer, proven=False)


def _inferred_manifest(
    directory: Path,
    engine: Engine,
    tokenizer: tokenizers.Tokenizer,
    target: str | None,
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
        target=target or _BARE_TARGETS[engine.name],
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
    _log.warning("no %s: padding %s with id %d", MANIFEST_FILE, manifest.padding_side, pad)
    return manifest


def _profile_of(engine: Engine) -> str:
    if EMBEDDINGS_OUTPUT in engine.output_names:
        return _BARE_EMBED_PROFILE
    return _BARE_PAIR_PROFILE if "token_type_ids" in engine.input_names else _BARE_PROFILE


def _pad_id(directory: Path, tokenizer: tokenizers.Tokenizer) -> int:
    """The id to pad with: the configured pad token, else EOS, else 0 (masked out anyway)."""
    try:
        raw = (directory / "tokenizer" / "tokenizer_config.json").read_bytes()
        config = msgspec.json.decode(raw, type=dict[str, object])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return 0
    for key in ("pad_token", "eos_token"):
        token = config.get(key)
        text = token.get("content") if isinstance(token, dict) else token
        found = tokenizer.token_to_id(text) if isinstance(text, str) else None
        if found is not None:
            return int(found)
    return 0
