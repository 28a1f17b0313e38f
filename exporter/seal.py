"""The last steps of every artifact: record its files, then open it as a server does."""

import hashlib
from contextlib import closing
from pathlib import Path

import msgspec

from exporter.progress import stage
from exporter.reference_file import REFERENCE_FILE
from runtime.manifest import PARITY_FILE, Manifest, hash_file, write_manifest
from runtime.opening import open_model

_VERSION_DIGITS = 12


def finish(
    directory: Path, manifest: Manifest, engine: str, *, host_code: bool = False
) -> Manifest:
    """Seal the artifact, open it as a server does on `engine`, and return its manifest."""
    with stage("seal the artifact"):
        sealed = seal(directory, manifest)
    with stage("open it as a server does"):
        check_opening(directory, engine, host_code=host_code)
    return sealed


def seal(directory: Path, manifest: Manifest) -> Manifest:
    """Write `manifest` with the hashes of all files and its version."""
    paths = sorted(p for p in directory.rglob("*") if p.is_file())
    files = {p.relative_to(directory).as_posix(): hash_file(p) for p in paths}
    sealed = msgspec.structs.replace(manifest, files=files)
    sealed = msgspec.structs.replace(sealed, version=version_of(sealed))
    write_manifest(directory, sealed)
    return sealed


def version_of(manifest: Manifest) -> str:
    """A short hash of what decides the scores; what was measured, which differs from run to run,
    does not."""
    measured = (PARITY_FILE, REFERENCE_FILE)
    decisive = {name: digest for name, digest in manifest.files.items() if name not in measured}
    prompt = manifest.template if manifest.kind == "rank" else manifest.prefixes
    facts: list[object] = [decisive, prompt, manifest.max_tokens]
    # Older artifacts have no activation and always used the sigmoid.
    if manifest.activation == "identity":
        facts.append(manifest.activation)
    if manifest.instruction is not None:
        facts.append(manifest.instruction)
    if manifest.instruction_format is not None:
        facts.append({"instruction_format": manifest.instruction_format})
    if manifest.tokenize_apart:
        facts.append("tokenize_apart")
    if manifest.merged:
        facts.append(manifest.merged)
    if manifest.vision is not None:
        facts.append(manifest.vision)
    digest = hashlib.sha256(msgspec.json.encode(facts))
    return digest.hexdigest()[:_VERSION_DIGITS]


def check_opening(directory: Path, engine: str | None, *, host_code: bool = False) -> None:
    """Open the artifact as a server does: hashes, engine, goldens."""
    with closing(open_model(directory, engine=engine, host_code=host_code)) as model:
        model.warm_up()
