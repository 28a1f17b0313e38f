"""Opening a model: the façade that servers and the exporter use.

ranker = open_ranker(Path("artifacts/rank"))
ranker.warm_up()
ranker.rank(RankRequest("What is machine learning?", ["…", "…"])).order
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

from runtime.artifact import OpenArtifact, Wanted, closed_on_error, find_directory, open_artifact
from runtime.batch import BatchLimits
from runtime.embedder import Embedder, Vectors
from runtime.engines import BoundedEngine, open_engine
from runtime.engines.mock import DIMENSIONS, byte_tokenizer
from runtime.errors import ArtifactError
from runtime.manifest import NOT_WITNESSED, Manifest, is_witnessed, unproven_manifest
from runtime.model import Model
from runtime.model_info import ModelInfo
from runtime.profile import Kind, load_target_profile
from runtime.ranker import Logits, Ranker
from runtime.scheduling.admission import QueueLimits
from runtime.selection import EngineOptions, serving_target
from runtime.shapes import longest
from runtime.tuning import tuned
from runtime.vision import naming_pillow
from runtime.vision.encoding import pair_encoder, text_encoder
from runtime.vision.limits import VisionLimits

if TYPE_CHECKING:
    from runtime.vision.tower import Tower

DEFAULT_QUEUE_ROWS = 8192
# Rows of 512 tokens in all of them.
DEFAULT_QUEUE_TOKENS = 1 << 22

_KIND_NAMES: dict[Kind, str] = {"rank": "a reranker", "embed": "an embedder"}
_MOCK_VERSION = "mock"
_MOCK_PROFILES: dict[Kind, str] = {
    "rank": "llama-nemotron-rerank-1b-v2",
    "embed": "llama-nemotron-embed-1b-v2",
}


class ModelLimits(TypedDict, total=False):
    """Limits: `max_tokens` of a row and `max_rows` of an engine call, both at most
    the artifact's and the target's, `queue_rows` and `queue_tokens` that may wait, and the
    seconds that a row waits for others (`window_s`); `vision` are the limits for images."""

    max_tokens: int | None
    max_rows: int | None
    queue_rows: int
    queue_tokens: int
    window_s: float
    vision: VisionLimits


class OpenArgs(ModelLimits, total=False):
    """How to open a directory: see `runtime.artifact.Wanted`, and `EngineSetup` for `cache`,
    `memory_bytes` and `host_code`."""

    manifest: Manifest | None
    engine: str | None
    target: str | None
    profile: str | None
    cache: Path | None
    memory_bytes: int | None
    host_code: bool


def open_model(directory: Path, kind: Kind | None = None, **args: Unpack[OpenArgs]) -> Model:
    """Open the model in `directory`: an artifact, or a bare NIM_CUSTOM_MODEL directory.

    `kind` None accepts either kind. Raises ArtifactError or EngineError.
    """
    directory = find_directory(directory)
    options = EngineOptions(
        max_rows=args.get("max_rows"),
        max_tokens=args.get("max_tokens"),
        cache=args.get("cache"),
        memory_bytes=args.get("memory_bytes"),
        host_code=args.get("host_code", False),
    )
    wanted = Wanted(args.get("engine"), args.get("target"), args.get("profile"), options)
    opened = open_artifact(directory, args.get("manifest"), wanted)
    with closed_on_error(opened):
        found = opened.manifest.kind
        if kind is not None and found != kind:
            raise ArtifactError(
                f"found {_KIND_NAMES[found]} (kind {found}), wanted {_KIND_NAMES[kind]}; "
                "rerank-serve takes rerankers with --rank DIR and embedders with --embed DIR"
            )
        # Only sealed artifacts have a version, which tuning.json refers to.
        return _model(opened, args, directory if opened.proven else None)


def open_ranker(directory: Path, **args: Unpack[OpenArgs]) -> Ranker:
    """`open_model` for a reranker."""
    return cast(Ranker, open_model(directory, "rank", **args))


def open_embedder(directory: Path, **args: Unpack[OpenArgs]) -> Embedder:
    """`open_model` for an embedder."""
    return cast(Embedder, open_model(directory, "embed", **args))


def mock_model(kind: Kind, engine: str | None = None, **model_limits: Unpack[ModelLimits]) -> Model:
    """A model with deterministic outputs and no weights; its tokens are UTF-8 bytes.

    `engine` names another engine with made-up outputs, such as a Triton's.
    """
    target = load_target_profile("cpu-fp32")
    opened_engine = open_engine(engine or "mock", Path())
    with closed_on_error(opened_engine):
        manifest = unproven_manifest(
            _MOCK_PROFILES[kind],
            target=target.name,
            version=_MOCK_VERSION,
            precision="none",
            pad_id=0,
            inputs=opened_engine.input_names,
            outputs=opened_engine.output_names,
            dimensions=DIMENSIONS if kind == "embed" else None,
        )
        limits = serving_target(opened_engine.name, manifest, target)
        opened = OpenArtifact(manifest, opened_engine, byte_tokenizer(), limits, proven=False)
        return _model(opened, model_limits, None)


def _model(opened: OpenArtifact, model_limits: ModelLimits, directory: Path | None) -> Model:
    manifest, engine, target = opened.manifest, opened.engine, opened.target
    max_tokens, max_rows = model_limits.get("max_tokens"), model_limits.get("max_rows")
    longest_row = min(manifest.max_tokens, longest(engine.shapes) or manifest.max_tokens)
    if max_tokens is not None and max_tokens > longest_row:
        raise ArtifactError(
            f"found max_tokens = {max_tokens}, the artifact takes at most "
            f"{longest_row} on engine {engine.name}; lower the setting or export with a larger "
            "maximum"
        )
    most_rows = target.max_rows
    if isinstance(engine, BoundedEngine):
        most_rows = min(most_rows, engine.max_rows)
    limits = BatchLimits(
        min(max_rows or most_rows, most_rows),
        target.token_budget,
        target.padding_waste,
        engine.shapes,
    )
    info = ModelInfo(
        kind=manifest.kind,
        model_id=manifest.model_id,
        version=manifest.version,
        profile=manifest.profile,
        # The artifact's target, unless Triton decides what runs.
        target=target.name if engine.device == "remote" else manifest.target,
        engine=engine.name,
        engine_version=engine.version,
        device=engine.device,
        precision=manifest.precision,
        pooling=manifest.pooling,
        max_tokens=max_tokens or longest_row,
        max_rows=limits.max_rows,
        token_budget=limits.token_budget,
        template=manifest.prompt,
        mock=manifest.version == _MOCK_VERSION,
        proven=opened.proven and is_witnessed(manifest),
        witness=manifest.witness or NOT_WITNESSED,
        dimensions=manifest.dimensions,
        asymmetric=bool(manifest.prefixes),
        images=manifest.vision is not None,
    )
    if directory is not None:
        limits = tuned(directory, info, limits)
        info = replace(info, token_budget=limits.token_budget)
    queue = QueueLimits(
        rows=model_limits.get("queue_rows", DEFAULT_QUEUE_ROWS),
        tokens=model_limits.get("queue_tokens", DEFAULT_QUEUE_TOKENS),
    )
    window_s = model_limits.get("window_s", 0.0)
    if manifest.kind == "rank":
        pairs = pair_encoder(manifest, opened.tokenizer, info.max_tokens)
        with _tower(opened, model_limits) as tower:
            return Ranker(opened, info, pairs, Logits(opened), limits, queue, window_s, tower)
    texts = text_encoder(manifest, opened.tokenizer, info.max_tokens)
    vectors = Vectors(opened, texts)
    info = replace(info, dimensions=vectors.dimensions)
    with _tower(opened, model_limits) as tower:
        return Embedder(opened, info, texts, vectors, limits, queue, window_s, tower)


@contextmanager
def _tower(opened: OpenArtifact, model_limits: ModelLimits) -> "Iterator[Tower | None]":
    """The vision tower of a model that takes images, closed if the block raises."""
    vision, engine = opened.manifest.vision, opened.tower
    if vision is None:
        yield None
        return
    assert engine is not None
    with naming_pillow():
        from runtime.vision.tower import Tower  # late: only models that take images need Pillow
    tower = Tower(engine, vision, model_limits.get("vision", VisionLimits()))
    with closed_on_error(tower):
        yield tower
