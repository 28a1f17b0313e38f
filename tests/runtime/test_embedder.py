"""The embedder on a real ONNX Runtime session and on the mock."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import pytest

from runtime.embedder import Embedder
from runtime.engines.ort import OrtEngine
from runtime.errors import (
    ArtifactError,
    BlankInput,
    DeadlineExceeded,
    DeviceLost,
    EngineError,
    EngineUnreachable,
    GoldenMismatch,
    InputTooLong,
    InputTypeRequired,
    ManifestError,
    NonFiniteScore,
    OutOfMemory,
)
from runtime.manifest import (
    Manifest,
    VectorGolden,
    hash_file,
    read_manifest,
    unproven_manifest,
    write_manifest,
)
from runtime.opening import mock_model, open_embedder, open_model, open_ranker
from runtime.requests import EmbedRequest
from tests.runtime.held_engine import HeldEngine
from tests.small_graphs import embedding_table, write_embedding_directory
from tests.waiting import wait_until

TEXTS = ["because", "b", "a much longer text " * 9, "ümlaut", "b"]
GOLDEN = "why not"
SIZE = 8


def finish(directory: Path, **changes: object) -> Manifest:
    """Turn a bare directory into an artifact with hashes and one golden vector."""
    bare = unproven_manifest(
        "tiny-embed-v1",
        target="cpu-fp32",
        version="v",
        precision="fp32",
        pad_id=0,
        inputs=["input_ids", "attention_mask"],
        outputs=["embeddings"],
        dimensions=SIZE,
    )
    embedder = open_embedder(directory, manifest=bare)
    ids = embedder.encoder.encode(EmbedRequest([GOLDEN], "query")).rows[0].token_ids.tolist()
    embedder.close()
    vector = mean_row(ids).tolist()
    golden = VectorGolden(text=GOLDEN, input_type="query", token_ids=ids, vector=vector)
    (directory / "parity.json").write_text(json.dumps({"schema": 1, "engine": "onnxruntime-cpu"}))
    files = [p for p in directory.rglob("*") if p.is_file()]
    described = msgspec.structs.replace(
        bare,
        files={str(p.relative_to(directory)): hash_file(p) for p in files},
        pooling="avg",
        vector_goldens=[golden],
        golden_tolerance=1e-5,
        witness="a loader",
    )
    described = msgspec.structs.replace(described, **changes)
    write_manifest(directory, described)
    return described


def mean_row(ids: list[int], size: int = SIZE) -> np.ndarray:
    """What the graph gives for these token ids."""
    return embedding_table(size)[ids].mean(axis=0)


def expected(embedder: Embedder, text: str, input_type: str, size: int = SIZE) -> np.ndarray:
    (row,) = embedder.encoder.encode(EmbedRequest([text], input_type)).rows  # type: ignore[arg-type]
    return mean_row(row.token_ids.tolist(), size)


def unit_length(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    directory = write_embedding_directory(tmp_path / "embed", size=SIZE)
    finish(directory)
    return directory


@pytest.fixture
def embedder(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Embedder]:
    monkeypatch.setattr("runtime.engines.placement.usable_nodes", lambda: ((0, 1),))
    opened = open_embedder(artifact)
    yield opened
    opened.close()


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Callable[..., Embedder]:
    """open_embedder that closes at the test's end."""

    def build(directory: Path, **args: object) -> Embedder:
        made = open_embedder(directory, **args)  # type: ignore[arg-type]
        request.addfinalizer(made.close)
        return made

    return build


def test_an_artifact_opens_and_reproduces_its_golden(embedder: Embedder) -> None:
    embedder.warm_up()
    info = embedder.info
    assert (info.kind, info.proven, info.asymmetric, info.dimensions) == ("embed", True, True, SIZE)
    assert info.model_id == "open-rerank/tiny-embed-v1"


def test_a_proven_artifacts_vectors_are_the_graphs_own(embedder: Embedder) -> None:
    """They are not touched: a graph that was exported normalises, or was meant not to."""
    found = embedder.embed(EmbedRequest(TEXTS, "passage"))
    wanted = np.stack([expected(embedder, text, "passage") for text in TEXTS])
    assert found.vectors.dtype == np.float32
    assert found.vectors == pytest.approx(wanted, abs=1e-5)
    rows = embedder.encoder.encode(EmbedRequest(TEXTS, "passage")).rows
    assert found.token_counts.tolist() == [len(row) for row in rows]
    assert found.truncated == 0


def test_queries_and_passages_differ(embedder: Embedder) -> None:
    query = embedder.embed(EmbedRequest(["because"], "query")).vectors
    passage = embedder.embed(EmbedRequest(["because"], "passage")).vectors
    assert query[0] == pytest.approx(expected(embedder, "because", "query"), abs=1e-5)
    assert not np.allclose(query, passage, atol=1e-2)


def test_an_asymmetric_model_wants_to_know_the_type(embedder: Embedder) -> None:
    with pytest.raises(InputTypeRequired):
        embedder.embed(EmbedRequest(["because"], None))


def test_a_symmetric_model_ignores_the_type(
    artifact: Path, opened: Callable[..., Embedder]
) -> None:
    manifest = msgspec.structs.replace(read_manifest(artifact), prefixes={})
    embedder = opened(artifact, manifest=manifest)
    assert not embedder.info.asymmetric
    found = [embedder.embed(EmbedRequest(["b"], t)).vectors for t in ("query", "passage", None)]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    assert embedder.embed(EmbedRequest(["b"], None)).token_counts.tolist() == [1]


def test_vectors_do_not_depend_on_neighbours(embedder: Embedder) -> None:
    together = embedder.embed(EmbedRequest(TEXTS, "passage")).vectors
    alone = np.concatenate([embedder.embed(EmbedRequest([t], "passage")).vectors for t in TEXTS])
    backwards = embedder.embed(EmbedRequest(TEXTS[::-1], "passage")).vectors[::-1]
    assert together == pytest.approx(alone, abs=1e-6)
    assert together == pytest.approx(backwards, abs=1e-6)


def test_many_async_callers_share_engine_calls(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = TEXTS * 20
    engine = HeldEngine(embedder, monkeypatch)

    async def all_at_once() -> list[np.ndarray]:
        callers = asyncio.gather(
            *(embedder.embed_async(EmbedRequest([t], "passage")) for t in texts)
        )
        await engine.let_go_after(len(texts))
        return [found.vectors[0] for found in await callers]

    found = np.stack(asyncio.run(all_at_once()))
    wanted = np.stack([expected(embedder, text, "passage") for text in texts])
    assert found == pytest.approx(wanted, abs=1e-5)
    assert (
        embedder.scheduler.stats().execution_count
        < embedder.scheduler.stats().inference_count
        == len(texts)
    )


@pytest.mark.parametrize("dimensions", [1, 3, SIZE - 1])
def test_fewer_dimensions_are_the_first_ones_at_length_one(
    embedder: Embedder, dimensions: int
) -> None:
    whole = embedder.embed(EmbedRequest(TEXTS, "query")).vectors
    found = embedder.embed(EmbedRequest(TEXTS, "query", dimensions=dimensions)).vectors
    assert found == pytest.approx(
        np.stack([unit_length(vector[:dimensions]) for vector in whole]), abs=1e-6
    )


@pytest.mark.parametrize("dimensions", [SIZE, 10**6])
def test_more_dimensions_than_there_are_mean_all(embedder: Embedder, dimensions: int) -> None:
    whole = embedder.embed(EmbedRequest(TEXTS, "query")).vectors
    found = embedder.embed(EmbedRequest(TEXTS, "query", dimensions=dimensions)).vectors
    assert found == pytest.approx(whole, abs=1e-6)


def test_truncation_is_reported_and_spares_the_prefix(
    artifact: Path, opened: Callable[..., Embedder]
) -> None:
    embedder = opened(artifact, max_tokens=16)
    long = "x" * 20
    with pytest.raises(InputTooLong, match="27 exceeds maximum allowed token size 16"):
        embedder.embed(EmbedRequest(["b", long], "query"))
    found = embedder.embed(EmbedRequest(["b", long], "query", truncate="START"))
    assert found.truncated == 1
    assert found.token_counts.tolist() == [8, 16]
    assert found.vectors[1] == pytest.approx(expected(embedder, "x" * 9, "query"), abs=1e-5)


def test_a_blank_input_is_named(embedder: Embedder) -> None:
    with pytest.raises(BlankInput, match=r"input\[3\] is blank"):
        embedder.embed(EmbedRequest(["a", "b", "c", "  "], "query"))


def test_a_deadline_in_the_past(embedder: Embedder) -> None:
    past = time.monotonic() - 1
    with pytest.raises(DeadlineExceeded):
        embedder.embed(EmbedRequest(["b"], "query", deadline=past))
    with pytest.raises(DeadlineExceeded):
        asyncio.run(embedder.embed_async(EmbedRequest(["b"], "query", deadline=past)))


def test_timing_adds_up(embedder: Embedder) -> None:
    timing = embedder.embed(EmbedRequest(TEXTS, "query")).timing
    parts = timing.tokenize_ms + timing.queue_ms + timing.engine_ms
    assert 0 < parts <= timing.total_ms


def test_tokens_of_a_text_alone(embedder: Embedder) -> None:
    listed = embedder.tokenize_async(
        ["a b"], lambda texts: [list(tokens) for tokens in texts], add_special_tokens=True
    )
    (found,) = asyncio.run(listed)
    assert [(t.start, t.stop, t.special) for t in found] == [
        (0, 1, False),
        (1, 2, False),
        (2, 3, False),
    ]


def test_an_engine_that_no_longer_gives_the_golden_is_refused(
    artifact: Path, opened: Callable[..., Embedder]
) -> None:
    manifest = read_manifest(artifact)
    vector = manifest.vector_goldens[0].vector
    vector[3] += 1e-3
    write_manifest(artifact, manifest)
    embedder = opened(artifact)
    with pytest.raises(GoldenMismatch, match=r"differs by 0\.001.*tolerance 1e-05"):
        embedder.warm_up()


def test_a_golden_of_another_size_is_refused(
    artifact: Path, opened: Callable[..., Embedder]
) -> None:
    manifest = read_manifest(artifact)
    manifest.vector_goldens[0].vector.pop()
    write_manifest(artifact, manifest)
    embedder = opened(artifact)
    with pytest.raises(GoldenMismatch):
        embedder.warm_up()


def test_a_tokenizer_that_no_longer_gives_the_golden_is_refused(
    artifact: Path, opened: Callable[..., Embedder]
) -> None:
    manifest = read_manifest(artifact)
    manifest.vector_goldens[0].token_ids[0] += 1
    write_manifest(artifact, manifest)
    embedder = opened(artifact)
    with pytest.raises(GoldenMismatch, match="tokenizer"):
        embedder.warm_up()


def test_an_artifact_without_golden_vectors_is_refused(tmp_path: Path) -> None:
    directory = write_embedding_directory(tmp_path / "embed", size=SIZE)
    finish(directory, vector_goldens=[])
    with pytest.raises(ManifestError, match="goldens"):
        open_embedder(directory)


def test_a_graph_whose_vectors_have_another_size_is_an_error(
    artifact: Path, opened: Callable[..., Embedder]
) -> None:
    manifest = msgspec.structs.replace(read_manifest(artifact), dimensions=SIZE + 1)
    embedder = opened(artifact, manifest=manifest)
    with pytest.raises(EngineError, match=r"shape \[1, 8\] for 1 rows, wanted \[1, 9\]"):
        embedder.embed(EmbedRequest(["b"], "query"))


def test_a_graph_that_does_not_pool_is_an_error(
    tmp_path: Path, opened: Callable[..., Embedder]
) -> None:
    directory = write_embedding_directory(tmp_path / "tokens", size=128, pooled=False)
    embedder = opened(directory, profile="tiny-embed-v1")
    with pytest.raises(EngineError, match="one pooled vector a row"):
        embedder.warm_up()


def test_infinity_is_an_error(tmp_path: Path, opened: Callable[..., Embedder]) -> None:
    directory = write_embedding_directory(tmp_path / "inf", size=128, divisor=0.0)
    embedder = opened(directory, profile="tiny-embed-v1")
    with pytest.raises(NonFiniteScore):
        embedder.warm_up()


def test_a_bare_directory_is_known_by_its_output_and_says_what_it_guessed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, opened: Callable[..., Embedder]
) -> None:
    directory = write_embedding_directory(tmp_path / "bare", size=2048)
    with caplog.at_level(logging.INFO):
        embedder = opened(directory)
    embedder.warm_up()
    info = embedder.info
    assert not info.proven
    assert (info.profile, info.dimensions) == ("llama-nemotron-embed-1b-v2", 2048)
    for guess in ("profile", "embed", "query: ", "8192 tokens", "padding left", "auto chose"):
        assert guess in caplog.text


@pytest.mark.parametrize("declared", [128, "size"])
def test_a_bare_directorys_vectors_get_length_one(
    tmp_path: Path, declared: str | int, opened: Callable[..., Embedder]
) -> None:
    directory = write_embedding_directory(tmp_path / "bare", size=128, declared=declared)
    embedder = opened(directory, profile="tiny-embed-v1")
    wanted = np.stack([unit_length(expected(embedder, t, "query", 128)) for t in TEXTS])
    assert embedder.embed(EmbedRequest(TEXTS, "query")).vectors == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    "error", [EngineError("no"), OutOfMemory(), DeviceLost(), EngineUnreachable(), MemoryError()]
)
def test_an_embedder_that_cannot_be_made_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Its number of dimensions is asked of the engine while it is made."""
    directory = write_embedding_directory(tmp_path / "bare", size=128)
    closed: list[OrtEngine] = []

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(OrtEngine, "run", fail)
    monkeypatch.setattr(OrtEngine, "close", lambda self: closed.append(self))
    before = set(threading.enumerate())
    with pytest.raises(type(error)):
        open_embedder(directory, profile="sentence-transformers")
    wait_until(lambda: set(threading.enumerate()) <= before)
    assert len(set(closed)) == 1


def test_a_graph_that_takes_the_number_of_dimensions_gets_all(
    tmp_path: Path, opened: Callable[..., Embedder]
) -> None:
    """What NVIDIA's recipe exports; the graph zeroes the components that were not asked for."""
    directory = write_embedding_directory(tmp_path / "recipe", size=128, dimensions_input=True)
    embedder = opened(directory, profile="tiny-embed-v1")
    wanted = np.stack([unit_length(expected(embedder, t, "query", 128)) for t in TEXTS])
    assert embedder.embed(EmbedRequest(TEXTS, "query")).vectors == pytest.approx(wanted, abs=1e-6)
    short = embedder.embed(EmbedRequest(TEXTS, "query", dimensions=5)).vectors
    assert short == pytest.approx(np.stack([unit_length(v[:5]) for v in wanted]), abs=1e-6)


def test_each_kind_is_opened_as_what_it_is(artifact: Path, bare_directory: Path) -> None:
    with pytest.raises(ArtifactError, match=r"an embedder .*wanted a reranker.*--embed DIR"):
        open_ranker(artifact)
    with pytest.raises(ArtifactError, match=r"a reranker .*wanted an embedder.*--rank DIR"):
        open_embedder(bare_directory)
    for directory, kind in ((artifact, "embed"), (bare_directory, "rank")):
        model = open_model(directory)
        model.close()
        assert model.info.kind == kind


def test_the_mock_is_deterministic_and_gives_unit_vectors() -> None:
    first, second = (cast(Embedder, mock_model("embed")) for _ in range(2))
    first.warm_up()
    assert (first.info.mock, first.info.asymmetric, first.info.dimensions) == (True, True, 64)
    vectors = first.embed(EmbedRequest(TEXTS, "query")).vectors
    assert np.array_equal(vectors, second.embed(EmbedRequest(TEXTS, "query")).vectors)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-6)
    assert np.array_equal(vectors[1], vectors[4])
    assert not np.allclose(vectors[0], first.embed(EmbedRequest(TEXTS[:1], "passage")).vectors)
    first.close()
    second.close()
