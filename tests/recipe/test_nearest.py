"""The first stage's search: exact whatever the blocks, ties by place, and where it computes."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from recipe import device
from recipe.errors import StageFailed
from recipe.first_stage import BlockEmbedder, Embedding, FirstStage, artifact_directory
from recipe.nearest import NOWHERE, nearest
from recipe.ray_workers import gpu_share
from recipe.vectors import Vectors
from runtime.gpu import Gpu
from runtime.postprocess import unit
from runtime.selection import AUTO
from tests.recipe.stored import stored

RANDOM = np.random.default_rng(3)


@pytest.fixture
def table(tmp_path: Path) -> Vectors:
    """60 vectors, of which each of the last 20 is equal to one of the first."""
    vectors = RANDOM.standard_normal((40, 8)).astype(np.float32)
    return stored(tmp_path, np.concatenate([vectors, vectors[::2]]), size=7)


@pytest.mark.parametrize("rows", [1, 7, 16, 59, 100])
def test_the_nearest_are_those_of_brute_force_and_ties_go_to_the_earlier(
    table: Vectors, rows: int
) -> None:
    asked = unit(RANDOM.standard_normal((9, 8)).astype(np.float32))
    every = table.read(0, 60)
    exact = asked.astype(np.float64) @ every.T.astype(np.float64)
    scores, places = nearest(asked, table, 12, "cpu", rows=rows)
    # Equal vectors have equal sums here, so a stable sort says what is wanted.
    np.testing.assert_array_equal(places, np.argsort(-exact, axis=1, kind="stable")[:, :12])
    np.testing.assert_allclose(scores, np.take_along_axis(exact, places, 1), atol=1e-6)
    assert any(place >= 40 for place in places.flat)


def test_what_is_barred_is_not_found(table: Vectors) -> None:
    def but_even(scores: torch.Tensor, start: int) -> None:
        scores[:, (torch.arange(scores.shape[1]) + start) % 2 == 0] = -torch.inf

    asked = table.read(0, 2)
    for rows in (5, 60):
        scores, places = nearest(asked, table, 35, "cpu", but_even, rows)
        assert sorted(places[0, :30]) == list(range(1, 60, 2))
        assert list(places[1, 30:]) == [NOWHERE] * 5
        assert np.isneginf(scores[:, 30:]).all()
        assert places[1, 0] == 1
    assert nearest(asked, table, 0, "cpu")[1].shape == (2, 0)


def test_vectors_that_are_not_numbers_are_an_error(table: Vectors, tmp_path: Path) -> None:
    broken = table.read(0, 4)
    broken[2, 3] = np.nan
    with pytest.raises(StageFailed, match=r"in 1 of 4 vectors .*the first: number 2"):
        stored(tmp_path, broken, size=4)
    with pytest.raises(StageFailed, match="fewer than 3 of 60 vectors for 1 of 4 questions"):
        nearest(broken, table, 3, "cpu")


def test_vectors_are_read_by_place(table: Vectors) -> None:
    every = table.read(0, 60)
    np.testing.assert_allclose(np.linalg.norm(every, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(table.read(6, 15), every[6:15])
    np.testing.assert_array_equal(table.read(59, 60), every[59:])
    np.testing.assert_array_equal(table.take([59, 0, 7]), every[[59, 0, 7]])


class Providers:
    """ONNX Runtime's list of what it was built with."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def get_available_providers(self) -> list[str]:
        return [*self._names, "CPUExecutionProvider"]


def first_stage(target: str | None) -> FirstStage:
    lengths = {"query_max_length": 8, "passage_max_length": 8, "batch_rows": 8}
    words = {"query_prefix": "", "passage_prefix": ""}
    return FirstStage(model="org/embedder", target=target, folder="kept", **lengths, **words)


@pytest.mark.parametrize(
    ("seen", "torch_sees", "offered", "wanted", "target", "said"),
    [
        (False, True, ["CUDAExecutionProvider"], "cpu", "cpu-fp32", "on the CPU: no GPU"),
        (
            True,
            False,
            ["CUDAExecutionProvider"],
            "cpu",
            "cpu-fp32",
            "on the CPU: PyTorch does",
        ),
        (True, True, [], "cuda", "cpu-fp32", "on the GPU H200, but embeds on the CPU"),
        (True, True, ["CUDAExecutionProvider"], "cuda", "cuda-fp16", "on the GPU H200"),
    ],
)
def test_a_gpu_is_used_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
    *,
    seen: bool,
    torch_sees: bool,
    offered: list[str],
    wanted: str,
    target: str,
    said: str,
) -> None:
    gpu = Gpu("H200", "9.0", "x86_64", "580") if seen else None
    monkeypatch.setattr(device, "find_gpu", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: torch_sees)
    monkeypatch.setattr(device, "import_without_telemetry", lambda _: Providers(*offered))
    assert device.find_device() == wanted
    assert device.embedder_target() == target
    assert device.device_line().startswith(said)
    assert (device.device_line() == said) == (target == "cuda-fp16")
    # What is exported for it, and the engine of an artifact that was there; a named target is kept.
    chosen, named = first_stage(None), first_stage("cpu-bf16")
    assert artifact_directory(chosen) == Path("kept", f"org-embedder-{target}")
    assert artifact_directory(named) == Path("kept", "org-embedder-cpu-bf16")
    assert BlockEmbedder(chosen, Path())._engine == (AUTO if wanted == "cuda" else None)
    assert BlockEmbedder(named, Path())._engine is None


def test_a_cpu_and_a_gpu_keep_vectors_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of one artifact, which each opens with its best engine; a named target has one engine."""
    (tmp_path / "model.onnx").touch()
    kept = {}
    for target in (None, "cpu-fp32"):
        wanted = msgspec.structs.replace(first_stage(target), model=str(tmp_path))
        for name in ("cpu", "cuda"):
            monkeypatch.setattr("recipe.first_stage.find_device", lambda name=name: name)
            embedding = Embedding(wanted, lambda _: None)
            kept[target, name] = embedding._file(["a"], "query")
    assert kept[None, "cpu"] != kept[None, "cuda"]
    assert kept["cpu-fp32", "cpu"] == kept["cpu-fp32", "cuda"] == kept[None, "cpu"]


@pytest.mark.parametrize(
    ("gpus", "workers", "share"), [(0, 4, 0), (2, 1, 1), (2, 2, 1), (2, 3, 0.5), (2, 5, 1 / 3)]
)
def test_every_worker_finds_room_on_one_gpu(gpus: int, workers: int, share: float) -> None:
    assert gpu_share(gpus, workers) == share
    if gpus:
        assert gpus * int(1 / share + 1e-9) >= workers
