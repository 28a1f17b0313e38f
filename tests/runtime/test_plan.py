"""An artifact with a plan, from opening to scores; TensorRT and CUDA are stand-ins."""

import sys
from pathlib import Path

import msgspec
import pytest

from runtime import selection
from runtime.engines import tensorrt as engine_module
from runtime.engines.cudart import Cuda
from runtime.errors import ArtifactError, EngineUnavailable, InputTooLong, ManifestError
from runtime.gpu import Gpu
from runtime.manifest import Plan, PlanHardware, hash_file, write_manifest
from runtime.opening import open_ranker
from runtime.profile import Shapes
from runtime.ranker import Ranker
from runtime.requests import RankRequest
from tests.runtime.conftest import write_bare_directory
from tests.runtime.engines.tensorrt_stand_in import FakeCudart, FakeTensorRt
from tests.runtime.test_artifact import finish

H100 = Gpu("NVIDIA H100", "9.0", "x86_64", "580.65.06")
PASSAGES = ["short", "a little longer", "x" * 300]


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """A machine with an H100 and TensorRT 10.16."""
    stand_in = FakeTensorRt([((1, 3), (16, 256), (64, 512))])
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in)
    monkeypatch.setattr(engine_module, "open_cuda", lambda: Cuda(FakeCudart()))
    for module in ("runtime.engines", "runtime.selection"):
        monkeypatch.setattr(f"{module}.find_gpu", lambda: H100)
    return stand_in


@pytest.fixture
def planned(tmp_path: Path) -> Path:
    """A finished artifact, proven on the CPU, with a plan that computes the same."""
    directory = write_bare_directory(tmp_path / "planned")
    manifest = finish(directory)
    (directory / "model.plan").write_bytes(b"plan")
    manifest = msgspec.structs.replace(
        manifest,
        files={**manifest.files, "model.plan": hash_file(directory / "model.plan")},
        plan=Plan(
            target="tensorrt-fp16",
            precision="fp16",
            shapes=[Shapes(batch=(1, 16, 64), sequence=(3, 256, 512))],
            version_compatible=False,
            golden_tolerance=0.05,
        ),
        hardware=PlanHardware(
            gpu="NVIDIA H100",
            compute_capability="9.0",
            cpu_architecture="x86_64",
            driver="580.65.06",
            tensorrt="10.16.1.11",
        ),
    )
    write_manifest(directory, manifest)
    return directory


def test_the_plan_is_served_and_gives_the_graph_s_scores(trt: FakeTensorRt, planned: Path) -> None:
    ranker = open_ranker(planned)
    ranker.warm_up()
    info = ranker.info
    assert (info.engine, info.target, info.precision) == ("tensorrt", "tensorrt-fp16", "fp16")
    assert (info.device, info.max_tokens, info.max_rows) == ("cuda:0", 512, 64)
    found = ranker.rank(RankRequest("query", PASSAGES)).logits
    ranker.close()
    graph = open_ranker(planned, engine="onnxruntime-cpu")
    assert found.tolist() == pytest.approx(
        graph.rank(RankRequest("query", PASSAGES)).logits.tolist()
    )
    graph.close()


def opened(planned: Path, **args: int) -> Ranker:
    return open_ranker(planned, **args)  # type: ignore[arg-type]


def test_rows_beyond_the_profile_follow_truncate(trt: FakeTensorRt, planned: Path) -> None:
    ranker = opened(planned)
    with pytest.raises(InputTooLong, match="exceeds maximum allowed token size 512"):
        ranker.rank(RankRequest("query", ["y" * 600]))
    cut = ranker.rank(RankRequest("query", ["y" * 600], truncate="END"))
    assert (cut.token_counts[0], cut.truncated) == (512, 1)
    assert trt.plans[0].computed[-1] == (0, (1, 512))
    ranker.close()


def test_a_bound_on_tokens_is_kept_and_one_above_the_profile_refused(
    trt: FakeTensorRt, planned: Path
) -> None:
    ranker = opened(planned, max_tokens=100)
    assert ranker.info.max_tokens == 100
    ranker.close()
    with pytest.raises(ArtifactError, match="takes at most 512 on engine tensorrt"):
        opened(planned, max_tokens=513)


def test_rows_are_cut_to_the_profile(trt: FakeTensorRt, planned: Path) -> None:
    trt.profiles[:] = [((1, 3), (2, 256), (4, 512))]
    ranker = opened(planned)
    ranker.rank(RankRequest("query", [f"{i:05}" for i in range(10)]))
    assert max(rows for _, (rows, _) in trt.plans[0].computed) <= 4
    ranker.close()


def test_auto_prefers_the_plan_and_a_named_target_the_graph(
    trt: FakeTensorRt, planned: Path
) -> None:
    for args, engine in (
        ({"engine": "auto"}, "tensorrt"),
        ({"target": "tensorrt-fp16"}, "tensorrt"),
        ({"target": "cpu-fp32"}, "onnxruntime-cpu"),
    ):
        ranker = open_ranker(planned, **args)  # type: ignore[arg-type]
        assert ranker.info.engine == engine
        ranker.close()


def test_a_target_that_nothing_was_made_for_says_how_to_make_it(planned: Path) -> None:
    with pytest.raises(ManifestError, match="made for target cpu-fp32 and tensorrt-fp16"):
        open_ranker(planned, target="cuda-fp16")
    with pytest.raises(ManifestError, match="build DIR --target tensorrt-fp8"):
        open_ranker(planned, target="tensorrt-fp8")


def test_a_plan_for_another_gpu_is_refused_and_auto_goes_on(
    trt: FakeTensorRt, planned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "find_gpu", lambda: Gpu("NVIDIA L4", "8.9", "x86_64", "580"))
    with pytest.raises(EngineUnavailable, match=r"capability 9\.0 .*rerank-export build"):
        open_ranker(planned)
    # The artifact was made for the CPU, so auto may end there.
    ranker = open_ranker(planned, engine="auto")
    assert ranker.info.engine == "onnxruntime-cpu"
    ranker.close()


def test_a_bare_plan_is_served_with_what_it_says_of_itself(
    trt: FakeTensorRt, tmp_path: Path
) -> None:
    directory = write_bare_directory(tmp_path / "bare")
    (directory / "model.onnx").unlink()
    (directory / "model.plan").write_bytes(b"plan")
    ranker = open_ranker(directory)
    assert (ranker.info.engine, ranker.info.max_tokens) == ("tensorrt", 512)
    assert not ranker.info.proven
    ranker.warm_up()
    ranker.close()
