"""The dense first stage: texts and images become vectors by this project's own runtime.

Vectors are kept on disk in blocks, named by a hash of everything that decides them. An interrupted
run continues after its last block, and runs with other settings share equal blocks.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from recipe.corpus_images import Document, passages, text_of
from recipe.device import device_line, embedder_target, find_device
from recipe.durable import read_json, write_json
from recipe.errors import BadConfig
from recipe.hub import is_commit, model_commit, unpinned
from recipe.progress import Log, Progress
from recipe.ray_workers import map_in_order
from recipe.stage import hash_of
from recipe.vectors import Vectors, holds_vectors, write_vectors
from runtime.embedder import Embedder
from runtime.manifest import MANIFEST_FILE, MODEL_FILE, Manifest, read_manifest
from runtime.opening import open_embedder
from runtime.outputs import locked_work_folder
from runtime.postprocess import Floats, InputType
from runtime.requests import EmbedRequest
from runtime.selection import AUTO

# Texts in one file of vectors.
BLOCK_TEXTS = 256
# In one where some have images, which are in memory together.
_BLOCK_IMAGES = 8
# What a file of vectors holds; another word, and those of before are computed again.
_KIND = "unit"
Block = tuple[Sequence[Document], InputType]


class FirstStage(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a vector, and the folder for artifacts and vectors.

    `model` is an artifact, a checkpoint directory or a hub id (which may be NAME@COMMIT); the last
    two are exported into `folder` for `target`. None: all is computed on the GPU where there is
    one, else on the CPU. A prefix precedes its text, with one space between; lengths are in tokens;
    `batch_rows` limits the texts of one engine call.
    """

    model: str
    target: str | None
    query_prefix: str
    passage_prefix: str
    query_max_length: int
    passage_max_length: int
    folder: str
    batch_rows: int


def artifact_directory(wanted: FirstStage) -> Path:
    """The directory of the embedder's artifact, now or after `ensure_artifact`."""
    given = Path(wanted.model)
    if (given / MANIFEST_FILE).is_file() or (given / MODEL_FILE).is_file():
        return given
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", unpinned(wanted.model)[0]).strip("-.")
    return Path(wanted.folder) / f"{name}-{_target(wanted)}"


def _target(wanted: FirstStage) -> str:
    return embedder_target() if wanted.target is None else wanted.target


def ensure_artifact(wanted: FirstStage, log: Log) -> Path:
    """The embedder's artifact; a checkpoint is exported and proven first.

    Raises ExportError, ArtifactError or BadConfig.
    """
    directory = artifact_directory(wanted)
    manifest = directory / MANIFEST_FILE
    if not manifest.is_file() and directory != Path(wanted.model):
        # The folder may be shared: other runs wait for this run's artifact.
        with locked_work_folder(directory, "embedder", wait=True):
            if not manifest.is_file():
                _export(wanted, directory, log)
    if manifest.is_file():
        _refuse_other_commit(wanted, directory)
        _check(wanted, read_manifest(directory))
    return directory


def _export(wanted: FirstStage, directory: Path, log: Log) -> None:
    from exporter.pipeline import ExportArgs, export  # torch takes seconds to import

    log(f"export the embedder {wanted.model} to {directory}")
    # Write the commit first: if the export is killed, no artifact is left without its commit.
    name, commit = unpinned(wanted.model)
    write_json(_commit_file(directory), {name: commit} if commit else model_commit(name))
    export(wanted.model, directory, ExportArgs(target=_target(wanted)))


def embedder_commit(wanted: FirstStage) -> dict[str, str]:
    """The commit of an embedder from the hub: the exported one, or the current one."""
    directory = artifact_directory(wanted)
    made = _exported_commit(directory) if (directory / MANIFEST_FILE).is_file() else None
    if made is None:
        return model_commit(wanted.model)
    name, _ = unpinned(wanted.model)
    return {wanted.model: made[name]} if name in made else {}


def _refuse_other_commit(wanted: FirstStage, directory: Path) -> None:
    name, commit = unpinned(wanted.model)
    found = (_exported_commit(directory) or {}).get(name)
    if commit is not None and found is not None and is_commit(found) and found != commit:
        raise BadConfig(
            f"found {name} of the commit {found} in {directory}, wanted {commit}; set another "
            "embedder_dir, or start over with --force, which keeps the existing artifact"
        )


def _exported_commit(directory: Path) -> dict[str, str] | None:
    """The recorded commit of an exported embedder; None when it was exported by hand."""
    return read_json(_commit_file(directory), dict[str, str])


def _commit_file(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.commit.json")


class Embedding:
    """Embeds texts block by block, in this process or on Ray; `version` is the artifact's. One that
    `sees` embeds images as well; others read only the texts beside them."""

    def __init__(
        self, wanted: FirstStage, log: Log, workers: int = 1, ray_address: str | None = None
    ) -> None:
        """`workers` above 1 embed on Ray. Raises like `ensure_artifact`."""
        directory = ensure_artifact(wanted, log)
        self._wanted, self._directory, self._log = wanted, directory, log
        self._workers, self._ray_address = workers, ray_address
        # Absolute: workers on other machines may have another working directory.
        self._cache = Path(wanted.folder, "vectors").absolute()
        manifest = read_manifest(directory) if (directory / MANIFEST_FILE).is_file() else None
        self.version = hash_of(directory) if manifest is None else manifest.version
        self.sees = manifest is not None and manifest.vision is not None
        log(f"the first stage runs {device_line()}")
        log(f"embedder: {directory}" + (f", made for {manifest.target}" if manifest else ""))

    def __call__(self, texts: Sequence[Document], input_type: InputType) -> Vectors:
        """Their vectors, on disk; raises InputRejected for blank texts, or EngineError."""
        if not self.sees:
            texts = [text_of(one) for one in texts]
        texts_only = all(isinstance(one, str) for one in texts)
        size = BLOCK_TEXTS if texts_only else _BLOCK_IMAGES
        starts = range(0, len(texts), size)
        blocks: list[Block] = [(texts[i : i + size], input_type) for i in starts]
        files = [self._file(*block) for block in blocks]
        missing = [
            place
            for place, (file, block) in enumerate(zip(files, blocks, strict=True))
            if not holds_vectors(file, len(block[0]))
        ]
        done = len(texts) - sum(len(blocks[place][0]) for place in missing)
        progress = Progress(f"embed {input_type} texts", len(texts), self._log, done)
        computed = map_in_order(
            BlockEmbedder,
            (self._wanted, self._directory),
            (blocks[place] for place in missing),
            self._workers,
            self._ray_address,
        )
        for place, vectors in zip(missing, computed, strict=True):
            write_vectors(files[place], vectors)
            progress.step(len(blocks[place][0]))
        return Vectors(files, size, len(texts))

    def _file(self, texts: Sequence[Document], input_type: InputType) -> Path:
        """Where their vectors are kept.

        The artifact's version stands for its target. What AUTO then takes is known when a model is
        open, so that machines with GPUs share their vectors, and those without do.
        """
        facts = [
            *(self.version, str(_engine(self._wanted)), input_type),
            *map(str, _prefix_and_length(self._wanted, input_type)),
        ]
        shown = [one if isinstance(one, str) else [one.text, one.image.digest] for one in texts]
        name = hashlib.sha256(msgspec.json.encode([_KIND, facts, shown])).hexdigest()
        return self._cache / f"{name[:32]}.npy"


class BlockEmbedder:
    """The engine of an Embedding, opened for its first block; may be in its own process."""

    def __init__(self, wanted: FirstStage, directory: Path) -> None:
        self._wanted, self._directory = wanted, directory
        self._engine = _engine(wanted)
        self._models: dict[int, Embedder] = {}

    def __call__(self, block: Block) -> Floats:
        """The vectors of one block, float32 [texts, dimensions]."""
        texts, input_type = block
        prefix, length = _prefix_and_length(self._wanted, input_type)
        if length not in self._models:
            self._models[length] = open_embedder(
                self._directory,
                engine=self._engine,
                max_tokens=length,
                max_rows=self._wanted.batch_rows,
            )
        model = self._models[length]
        # An embedder with its own prefixes, such as any that sees, adds them itself (see `_check`).
        if prefix and not model.info.asymmetric:
            texts = [f"{prefix} {text_of(text)}" for text in texts]
        return model.embed(EmbedRequest(passages(texts), input_type, truncate="END")).vectors

    def close(self) -> None:
        """Stop the engine."""
        for model in self._models.values():
            model.close()


def _engine(wanted: FirstStage) -> str | None:
    """The best one for an artifact on a GPU, unless a target was named: then its own (None)."""
    return AUTO if wanted.target is None and find_device() == "cuda" else None


def _prefix_and_length(wanted: FirstStage, input_type: InputType) -> tuple[str, int]:
    """Prefix and length in tokens of a text."""
    if input_type == "query":
        return wanted.query_prefix, wanted.query_max_length
    return wanted.passage_prefix, wanted.passage_max_length


def _check(wanted: FirstStage, manifest: Manifest) -> None:
    """Refuse settings that the artifact does not support."""
    if manifest.kind != "embed":
        raise BadConfig(f"{wanted.model} is a reranker, wanted an embedder for the first stage")
    longest = max(wanted.query_max_length, wanted.passage_max_length)
    if longest > manifest.max_tokens:
        raise BadConfig(
            f"found a length of {longest} tokens, but the embedder {wanted.model} takes at most "
            f"{manifest.max_tokens}; lower query_max_length and passage_max_length"
        )
    for kind, prefix in (("query", wanted.query_prefix), ("passage", wanted.passage_prefix)):
        own = manifest.prefixes.get(kind)
        if own is not None and own.strip() != prefix.strip():
            raise BadConfig(
                f"found {kind}_prefix = {prefix!r}, but the embedder was exported with "
                f"{own.strip()!r}; give it that one"
            )
