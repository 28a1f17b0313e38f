"""The embedder that retrieves and mines, on this project's own runtime.

A checkpoint is exported first, once for all stages that name it: artifacts lie in `embedders/`
beside the stages' folders.
"""

from collections.abc import Sequence
from pathlib import Path

from recipe.errors import BadConfig
from recipe.progress import Say
from runtime.embedder import Embedder
from runtime.manifest import MANIFEST_FILE, MODEL_FILE, read_manifest
from runtime.opening import open_embedder
from runtime.postprocess import Floats, InputType

_FOLDER = "embedders"


class Retriever:
    """Embeds queries and passages with the prefixes that were asked for.

    `identity` is a hash of what gives the vectors. A model that knows prefixes puts its own before
    each text; before the texts of one that knows none they are put here.
    """

    def __init__(self, embedder: Embedder, prefixes: dict[InputType, str]) -> None:
        self._embedder = embedder
        self._prefixes = prefixes
        self.identity = embedder.info.version

    def embed(self, texts: Sequence[str], kind: InputType) -> Floats:
        """Vectors float32 [n, d]; texts that are too long lose their end."""
        if self._embedder.info.asymmetric:
            return self._embedder.embed(texts, input_type=kind, truncate="END").vectors
        put = [f"{self._prefixes[kind]} {text}".lstrip() for text in texts]
        return self._embedder.embed(put, truncate="END").vectors

    def close(self) -> None:
        """Give the engine's memory back."""
        self._embedder.close()


def open_retriever(
    source: str, target: str, max_tokens: int, prefixes: dict[InputType, str], root: Path, say: Say
) -> Retriever:
    """Open `source`: an artifact, or a checkpoint (directory or hub id) exported below `root`.

    Raises BadConfig when the artifact's own prefixes are not these, ExportError or ServingError.
    """
    directory = _artifact(source, target, root, say)
    known = read_manifest(directory).prefixes if (directory / MANIFEST_FILE).is_file() else {}
    for kind, prefix in prefixes.items():
        if known and known[kind].strip() != prefix.strip():
            raise BadConfig(
                f"found {kind}_prefix = {prefix!r}, but {source} was made for {known[kind]!r}; set "
                "the latter"
            )
    embedder = open_embedder(directory, max_tokens=_bound(directory, max_tokens))
    embedder.warm_up()
    return Retriever(embedder, prefixes)


def _bound(directory: Path, wished: int) -> int:
    """`wished`, or the artifact's own bound where that is lower (BERT's 512, MiniLM's 256)."""
    if not (directory / MANIFEST_FILE).is_file():
        return wished
    return min(wished, read_manifest(directory).max_tokens)


def _artifact(source: str, target: str, root: Path, say: Say) -> Path:
    directory = Path(source)
    if (directory / MANIFEST_FILE).is_file() or (directory / MODEL_FILE).is_file():
        return directory
    from exporter.checkpoint import find_checkpoint  # late: torch
    from exporter.pipeline import Wish, export
    from recipe.evaluation.scorers import fingerprint

    checkpoint = find_checkpoint(source)
    name = f"{Path(source).name}-{fingerprint(checkpoint)}-{target}"
    out = root / _FOLDER / name
    if not (out / MANIFEST_FILE).is_file():
        say(f"export the embedder {source} to {out}")
        export(str(checkpoint), out, Wish(target=target))
    return out
