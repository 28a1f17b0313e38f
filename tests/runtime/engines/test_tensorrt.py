"""The control flow of native plans: profiles, buffers, scratch memory, failures.

No TensorRT is here: stand-ins take its place, and real numbers go through their memory.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.engines import EngineSetup
from runtime.engines.cudart import Cuda
from runtime.engines.tensorrt import TensorRtEngine, load_plan, tensorrt_version
from runtime.errors import DeviceLost, EngineError, EngineUnavailable, OutOfMemory
from tests.runtime.engines.tensorrt_stand_in import FakeCudart, FakePlan, FakeTensorRt, Sums

# Sizes of an array, names where they vary.
Dims = Sequence[str | int]
SHORT = ((1, 3), (16, 256), (64, 512))
LONG = ((1, 3), (4, 2048), (8, 4096))


class Fused(Sums):
    """A text plan that adds the sum of all image embeddings to every logit."""

    dims: Mapping[str, Dims] = {**Sums.dims, "image_embeds": ("tiles", 2, 3)}
    types: Mapping[str, str] = {**Sums.types, "image_embeds": "FLOAT"}

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"logits": super().run(inputs)["logits"] + inputs["image_embeds"].sum()}


class Tower(Sums):
    """A tower whose embeddings are all the tile's mean."""

    dims: Mapping[str, Dims] = {"image_embeds": ("tiles", 2, 3), "pixel_values": ("tiles", 3, 4, 4)}
    types: Mapping[str, str] = {"image_embeds": "FLOAT", "pixel_values": "FLOAT"}
    outputs = ("image_embeds",)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        means = inputs["pixel_values"].mean(axis=(1, 2, 3))[:, None, None]
        return {"image_embeds": np.broadcast_to(means, (len(means), 2, 3))}


FUSED = {
    **dict.fromkeys(("input_ids", "attention_mask"), SHORT),
    "image_embeds": ((0, 2, 3), (4, 2, 3), (9, 2, 3)),
}
TOWER = {"pixel_values": ((1, 3, 4, 4), (2, 3, 4, 4), (4, 3, 4, 4))}


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    (tmp_path / "model.plan").write_bytes(b"plan of a model")
    return tmp_path / "model.plan"


def load(
    plan_file: Path,
    cudart: FakeCudart | None = None,
    *profiles: Any,
    model: Sums | None = None,
    **setup: Any,
) -> tuple[TensorRtEngine, FakePlan, FakeCudart]:
    library = cudart or FakeCudart()
    trt = FakeTensorRt(profiles or (SHORT, LONG), model)
    engine = load_plan(trt, Cuda(library), plan_file, EngineSetup(**setup))
    return engine, trt.plans[0], library


def rows_of(rows: int, tokens: int) -> dict[str, np.ndarray]:
    ids = np.arange(rows * tokens, dtype=np.int64).reshape(rows, tokens)
    mask = np.ones((rows, tokens), np.int64)
    mask[:, -1] = 0
    return {"input_ids": ids, "attention_mask": mask}


def wanted(inputs: dict[str, np.ndarray]) -> np.ndarray:
    return (inputs["input_ids"] * inputs["attention_mask"]).sum(1, keepdims=True) / 100


def test_names_and_shapes_are_the_plan_s(plan_file: Path) -> None:
    engine, plan, _ = load(plan_file)
    assert engine.input_names == ["input_ids", "attention_mask"]
    assert engine.output_names == ["logits"]
    assert [one.sequence for one in engine.shapes] == [(3, 256, 512), (3, 2048, 4096)]
    assert [context.profile for context in plan.contexts] == [0, 1]
    assert (engine.name, engine.device) == ("tensorrt", "cuda:0")


def test_numbers_go_through_the_device_and_back(plan_file: Path) -> None:
    engine, plan, _ = load(plan_file)
    for rows, tokens in ((2, 5), (64, 512), (1, 3)):
        inputs = rows_of(rows, tokens)
        found = engine.run(inputs)["logits"]
        assert found.shape == (rows, 1)
        assert np.allclose(found, wanted(inputs))
    assert [shape for _, shape in plan.computed] == [(2, 5), (64, 512), (1, 3)]


def test_results_are_the_caller_s_own(plan_file: Path) -> None:
    engine, _, _ = load(plan_file)
    first = engine.run(rows_of(2, 5))["logits"]
    before = first.copy()
    engine.run(rows_of(2, 9))
    assert (first == before).all()


def test_each_call_goes_to_the_context_of_its_profile(plan_file: Path) -> None:
    engine, plan, _ = load(plan_file)
    engine.run(rows_of(4, 100))
    engine.run(rows_of(4, 1000))
    assert [profile for profile, _ in plan.computed] == [0, 1]


def test_a_call_that_no_profile_takes_is_reported(plan_file: Path) -> None:
    engine, plan, _ = load(plan_file)
    with pytest.raises(EngineError, match="found a call of 9 rows and 600 tokens"):
        engine.run(rows_of(9, 600))
    assert not plan.computed


def test_small_calls_are_to_be_padded_to_the_least_shape(plan_file: Path) -> None:
    engine, _, _ = load(plan_file, None, ((2, 16), (4, 32), (8, 64)))
    assert engine.shape_for(1, 5) == (2, 16)
    assert engine.shape_for(5, 20) == (5, 20)


def test_a_bound_on_tokens_opens_no_longer_profile(plan_file: Path) -> None:
    engine, plan, _ = load(plan_file, max_tokens=512)
    assert [one.sequence[2] for one in engine.shapes] == [512]
    assert [context.profile for context in plan.contexts] == [0]
    engine, plan, _ = load(plan_file, None, LONG, SHORT, max_tokens=512)
    assert [context.profile for context in plan.contexts] == [1]
    inputs = rows_of(3, 7)
    assert np.allclose(engine.run(inputs)["logits"], wanted(inputs))


@pytest.mark.parametrize("tiles", [[0, 3, 0, 9], [9, 0], [0]])
def test_images_stand_beside_texts_or_none_does(plan_file: Path, tiles: list[int]) -> None:
    engine, plan, _ = load(plan_file, None, FUSED, model=Fused())
    assert [(one.batch, one.sequence) for one in engine.shapes] == [((1, 16, 64), (3, 256, 512))]
    for count in tiles:
        # The number of tiles is all that changes, and the scratch memory is laid out again.
        embeds = np.full((count, 2, 3), 0.5, np.float32)
        inputs = rows_of(2, 5)
        found = engine.run({**inputs, "image_embeds": embeds})["logits"]
        assert np.allclose(found, wanted(inputs) + 3 * count)
    assert len(plan.computed) == len(tiles)


def test_more_tiles_than_a_profile_takes_are_reported(plan_file: Path) -> None:
    engine, plan, _ = load(plan_file, None, FUSED, model=Fused())
    embeds = np.zeros((10, 2, 3), np.float32)
    with pytest.raises(EngineError, match=r"image_embeds: shape \(10, 2, 3\) is out of range"):
        engine.run({**rows_of(2, 5), "image_embeds": embeds})
    assert not plan.computed


def test_a_tower_s_shapes_are_its_tiles(plan_file: Path) -> None:
    engine, plan, library = load(plan_file, None, TOWER, model=Tower())
    assert [(one.batch, one.sequence) for one in engine.shapes] == [((1, 2, 4), (1, 1, 1))]
    assert engine.shape_for(3, 1) == (3, 1)
    for tiles in (3, 1, 4):
        pixels = np.arange(tiles * 48, dtype=np.float32).reshape(tiles, 3, 4, 4)
        (found,) = engine.run({"pixel_values": pixels}).values()
        assert found.shape == (tiles, 2, 3)
        assert np.allclose(found[:, 1, 2], pixels.mean(axis=(1, 2, 3)))
    with pytest.raises(EngineError, match="found a call of 5 rows and 1 tokens"):
        engine.run({"pixel_values": np.zeros((5, 3, 4, 4), np.float32)})
    assert len(plan.computed) == 3
    engine.close()
    assert not library.held


def test_contexts_share_scratch_memory_that_grows_with_what_is_asked(plan_file: Path) -> None:
    engine, plan, _ = load(plan_file)
    engine.run(rows_of(2, 10))
    small = plan.contexts[0].scratch
    assert small[1] == 2 * 10 * plan.scratch_per_token
    engine.run(rows_of(2, 1000))
    large = plan.contexts[1].scratch
    assert large[1] == 2 * 1000 * plan.scratch_per_token
    engine.run(rows_of(2, 10))
    assert plan.contexts[0].scratch == large


def test_out_of_memory_is_survived(plan_file: Path) -> None:
    engine, _, library = load(plan_file, FakeCudart(memory_bytes=20_000))
    with pytest.raises(OutOfMemory):
        engine.run(rows_of(64, 500))
    inputs = rows_of(4, 10)
    assert np.allclose(engine.run(inputs)["logits"], wanted(inputs))
    assert library.wait_status == 0


def test_the_bound_on_memory_is_kept(plan_file: Path) -> None:
    engine, _, _ = load(plan_file, memory_bytes=1000)
    with pytest.raises(OutOfMemory):
        engine.run(rows_of(10, 10))
    assert engine.run(rows_of(3, 10))["logits"].shape == (3, 1)


def test_a_sticky_error_loses_the_device(plan_file: Path) -> None:
    engine, _, library = load(plan_file)
    library.wait_status = 700
    with pytest.raises(DeviceLost):
        engine.run(rows_of(2, 5))


@pytest.mark.parametrize(
    ("complaint", "kind"),
    [
        ("Error Code 1: Cuda Runtime (an illegal memory access was encountered)", DeviceLost),
        ("Error Code 2: OutOfMemory (Requested size was 12 bytes.)", OutOfMemory),
        ("Error Code 3: API Usage Error", EngineError),
    ],
)
def test_the_errors_of_tensorrt_are_reported(
    plan_file: Path, complaint: str, kind: type[Exception]
) -> None:
    engine, plan, _ = load(plan_file)
    plan.complaint = complaint
    with pytest.raises(kind) as caught:
        engine.run(rows_of(2, 5))
    assert type(caught.value) is kind
    if kind is EngineError:
        assert complaint in str(caught.value)


def test_content_that_is_no_plan_is_refused_with_the_reason(plan_file: Path) -> None:
    plan_file.write_bytes(b"something else")
    with pytest.raises(EngineError, match=r"wrong magic tag.*rerank-export build"):
        load(plan_file)


@pytest.mark.parametrize("allowed", [True, False])
def test_code_inside_a_plan_runs_only_when_allowed(plan_file: Path, *, allowed: bool) -> None:
    trt = FakeTensorRt([SHORT])
    load_plan(trt, Cuda(FakeCudart()), plan_file, EngineSetup(host_code=allowed))
    assert trt.host_code_allowed == [allowed]


def test_closing_gives_everything_back(plan_file: Path) -> None:
    engine, _, library = load(plan_file)
    engine.run(rows_of(8, 200))
    assert library.held
    engine.close()
    assert not library.held
    assert library.calls == ["destroy"]


def test_tensorrt_that_is_not_here_is_named() -> None:
    with pytest.raises(EngineUnavailable, match="needs the package tensorrt with its libraries"):
        tensorrt_version()
