"""Which engine is chosen, and in which words what does not fit is refused."""

import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runtime import selection
from runtime.engines import EngineSetup
from runtime.engines.mock import MockEngine
from runtime.errors import (
    DeviceLost,
    EngineError,
    EngineUnavailable,
    OutOfMemory,
    ServingError,
)
from runtime.gpu import Gpu
from runtime.manifest import Manifest, Plan, PlanHardware, unproven_manifest
from runtime.profile import Shapes, load_target_profile
from runtime.selection import (
    AUTO,
    ONNX,
    EngineOptions,
    candidates,
    default_engine,
    open_best,
    plan_mismatch,
    serving_target,
    setup_for,
)
from runtime.shapes import ShapeRange

H100 = Gpu("NVIDIA H100", "9.0", "x86_64", "580.65.06")
CUDA_ORDER = ["onnxruntime-tensorrt", "onnxruntime-cuda"]


def manifest(
    target: str = "ort-tensorrt-fp16", *, plan: bool = False, **plan_facts: Any
) -> Manifest:
    """A manifest for a graph of `target`, and a plan built on an H100 with TensorRT 10.16."""
    described = unproven_manifest(
        "tiny-rerank-v1",
        target=target,
        version="v",
        precision="fp16",
        pad_id=0,
        inputs=["input_ids", "attention_mask"],
        outputs=["logits"],
    )
    described = msgspec.structs.replace(described, max_tokens=512)
    if not plan:
        return described
    facts = {
        "target": "tensorrt-fp16",
        "precision": "fp16",
        "shapes": [Shapes(batch=(1, 16, 64), sequence=(3, 256, 512))],
        "version_compatible": False,
        "golden_tolerance": 0.05,
    }
    return msgspec.structs.replace(
        described,
        plan=Plan(**{**facts, **plan_facts}),
        hardware=PlanHardware(
            gpu="NVIDIA H100",
            compute_capability="9.0",
            cpu_architecture="x86_64",
            driver="580.65.06",
            tensorrt="10.16.1.11",
        ),
    )


@pytest.mark.parametrize(
    ("requested", "target", "has_plan", "gpu", "wanted"),
    [
        (AUTO, "ort-tensorrt-fp16", True, H100, ["tensorrt", *CUDA_ORDER]),
        (AUTO, "ort-tensorrt-fp16", False, H100, CUDA_ORDER),
        (ONNX, "ort-tensorrt-fp16", True, H100, ["onnxruntime-cuda"]),
        # Operators of ONNX Runtime's own are unknown to TensorRT.
        (AUTO, "cuda-fp16", False, H100, ["onnxruntime-cuda"]),
        # ONNX Runtime's TensorRT provider chooses types of its own: only what was proven on it.
        (AUTO, "cpu-fp32", False, H100, ["onnxruntime-cuda", "onnxruntime-cpu"]),
        (AUTO, "tensorrt-fp16", False, H100, ["onnxruntime-cuda"]),
        (AUTO, "tensorrt-fp16", True, H100, ["tensorrt", "onnxruntime-cuda"]),
        (ONNX, "cpu-fp32", False, H100, ["onnxruntime-cuda", "onnxruntime-cpu"]),
        (AUTO, "cuda-fp16", False, None, ["onnxruntime-cpu"]),
        (AUTO, "cuda-fp16", True, None, ["onnxruntime-cpu"]),
        (AUTO, "cpu-fp32", False, None, ["onnxruntime-cpu"]),
        # Graphs that only their own engine computes.
        (AUTO, "cpu-int8", False, H100, ["onnxruntime-cpu"]),
        (AUTO, "cpu-bf16", False, H100, ["openvino-bf16"]),
        (AUTO, "tensorrt-fp8", True, H100, ["tensorrt"]),
        # A bare directory, whose precision nobody knows.
        (AUTO, None, True, H100, ["tensorrt", "onnxruntime-cuda"]),
        (AUTO, None, False, H100, ["onnxruntime-cuda"]),
        (AUTO, None, False, None, ["onnxruntime-cpu"]),
    ],
)
def test_order(
    requested: str, target: str | None, has_plan: bool, gpu: Gpu | None, wanted: list[str]
) -> None:
    own_target = load_target_profile(target) if target else None
    assert candidates(requested, own_target, has_plan=has_plan, gpu=gpu) == wanted


def test_the_plan_is_the_default_where_there_is_one() -> None:
    own, cpu = load_target_profile(manifest(plan=True).target), load_target_profile("cpu-fp32")
    assert default_engine(manifest(plan=True), own, None) == "tensorrt"
    assert default_engine(manifest(plan=True), own, "tensorrt-fp16") == "tensorrt"
    assert default_engine(manifest(plan=True), own, "ort-tensorrt-fp16") == "onnxruntime-tensorrt"
    assert default_engine(manifest("cpu-fp32"), cpu, None) == "onnxruntime-cpu"


@pytest.mark.parametrize(
    ("gpu", "version", "reason"),
    [
        (H100, "10.16.1.11", None),
        (Gpu("NVIDIA L4", "8.9", "x86_64", "580"), "10.16.1.11", "compute capability 9.0"),
        (Gpu("NVIDIA GH200", "9.0", "aarch64", "580"), "10.16.1.11", "architecture x86_64"),
        (Gpu("NVIDIA H200", "9.0", "x86_64", "570"), "10.16.1.11", None),
        (H100, "10.17.0.1", "built with TensorRT 10.16.1.11, found 10.17.0.1"),
        (H100, "11.4.0.106", "built with TensorRT 10.16.1.11, found 11.4.0.106"),
    ],
)
def test_a_plan_fits_its_own_machine(gpu: Gpu, version: str, reason: str | None) -> None:
    found = plan_mismatch(manifest(plan=True), gpu, version, host_code=False)
    assert (found is None) == (reason is None)
    assert reason is None or reason in (found or "")


def test_a_version_compatible_plan_fits_later_versions_of_its_major_one() -> None:
    compatible = manifest(plan=True, version_compatible=True)

    def mismatch(version: str, *, host_code: bool = True) -> str | None:
        return plan_mismatch(compatible, H100, version, host_code=host_code)

    assert mismatch("10.16.1.11") is None
    assert mismatch("10.17.0.1") is None
    assert "found 10.13.0.1" in (mismatch("10.13.0.1") or "")
    assert "found 11.4.0.106" in (mismatch("11.4.0.106") or "")
    assert "NIM_TRT_ENGINE_HOST_CODE_ALLOWED" in (mismatch("10.16.1.11", host_code=False) or "")


def test_a_plan_that_does_not_fit_is_refused_with_the_command_that_rebuilds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.plan").write_bytes(b"plan")
    monkeypatch.setattr(selection, "find_gpu", lambda: Gpu("NVIDIA L4", "8.9", "x86_64", "580"))
    monkeypatch.setattr(selection, "tensorrt_version", lambda: "10.16.1.11")
    described = manifest(plan=True)
    own_target = load_target_profile(described.target)
    with pytest.raises(EngineUnavailable) as caught:
        open_best(tmp_path, "tensorrt", described, own_target, EngineOptions())
    message = str(caught.value)
    assert "built for compute capability 9.0 (NVIDIA H100), found 8.9 (NVIDIA L4)" in message
    assert f"rerank-export build {tmp_path} --target tensorrt-fp16" in message


def test_a_plan_that_nobody_built_is_asked_for_by_its_command(tmp_path: Path) -> None:
    described = manifest("tensorrt-fp16")
    own_target = load_target_profile("tensorrt-fp16")
    with pytest.raises(EngineUnavailable, match=r"needs model\.plan.*rerank-export build .*fp16"):
        open_best(tmp_path, "tensorrt", described, own_target, EngineOptions())


def test_auto_goes_on_to_the_next_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tried: list[tuple[str, EngineSetup]] = []

    def opening(name: str, directory: Path, setup: EngineSetup) -> MockEngine:
        tried.append((name, setup))
        if name == "onnxruntime-tensorrt":
            raise EngineUnavailable("no libnvinfer here")
        return MockEngine()

    monkeypatch.setattr(selection, "open_engine", opening)
    monkeypatch.setattr(selection, "find_gpu", lambda: H100)
    own_target = load_target_profile("ort-tensorrt-fp16")
    open_best(tmp_path, AUTO, manifest(), own_target, EngineOptions(cache=tmp_path))
    assert [name for name, _ in tried] == CUDA_ORDER
    wanted = "auto chose engine onnxruntime-cuda; not onnxruntime-tensorrt: no libnvinfer here"
    assert wanted in caplog.text
    assert tried[0][1].shapes == (ShapeRange((1, 16, 64), (3, 256, 512)),)
    assert tried[0][1].cache == tmp_path / "engines" / "v"


def test_a_gpu_that_fails_is_no_reason_to_take_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opening(name: str, directory: Path, setup: EngineSetup) -> MockEngine:
        raise EngineUnavailable(f"{name} is broken")

    monkeypatch.setattr(selection, "open_engine", opening)
    monkeypatch.setattr(selection, "find_gpu", lambda: H100)
    own_target = load_target_profile("ort-tensorrt-fp16")
    with pytest.raises(EngineUnavailable, match="tensorrt is broken; not onnxruntime-cuda: onnx"):
        open_best(tmp_path, AUTO, manifest(), own_target, EngineOptions())


@pytest.mark.parametrize("failure", [EngineError("TensorRT refused the plan"), OutOfMemory()])
def test_auto_passes_over_an_engine_that_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: ServingError,
) -> None:
    def opening(name: str, directory: Path, setup: EngineSetup) -> MockEngine:
        if name == "onnxruntime-tensorrt":
            raise failure
        return MockEngine()

    monkeypatch.setattr(selection, "open_engine", opening)
    monkeypatch.setattr(selection, "find_gpu", lambda: H100)
    own_target = load_target_profile("ort-tensorrt-fp16")
    open_best(tmp_path, AUTO, manifest(), own_target, EngineOptions())
    assert f"onnxruntime-cuda; not onnxruntime-tensorrt: {failure}" in caplog.text
    # Asked for by name it stops the start.
    with pytest.raises(type(failure)):
        open_best(tmp_path, "onnxruntime-tensorrt", manifest(), own_target, EngineOptions())


@pytest.mark.parametrize("failure", [EngineError("no session"), OutOfMemory()])
def test_a_gpu_that_fails_is_worth_another_start_and_a_missing_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: ServingError
) -> None:
    raised: ServingError = failure

    def opening(name: str, directory: Path, setup: EngineSetup) -> MockEngine:
        if name == "onnxruntime-cuda":
            raise raised
        return MockEngine()

    monkeypatch.setattr(selection, "open_engine", opening)
    monkeypatch.setattr(selection, "find_gpu", lambda: H100)
    described = manifest("cpu-fp32")
    own_target = load_target_profile("cpu-fp32")
    with pytest.raises(EngineError, match=r"not onnxruntime-cuda.*the target that runs on onnxrun"):
        open_best(tmp_path, AUTO, described, own_target, EngineOptions())
    raised = EngineUnavailable("no CUDA here")
    assert open_best(tmp_path, AUTO, described, own_target, EngineOptions()).device == "cpu"


def test_a_gpu_that_is_lost_ends_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opening(name: str, directory: Path, setup: EngineSetup) -> MockEngine:
        raise DeviceLost

    monkeypatch.setattr(selection, "open_engine", opening)
    monkeypatch.setattr(selection, "find_gpu", lambda: H100)
    own_target = load_target_profile("cpu-fp32")
    with pytest.raises(DeviceLost):
        open_best(tmp_path, AUTO, manifest("cpu-fp32"), own_target, EngineOptions())


@pytest.mark.parametrize(
    ("target", "plan", "most", "allowed", "chosen"),
    [
        # Rows are not cut to the 512 tokens that ONNX Runtime's TensorRT compiles for,
        ("ort-tensorrt-fp16", False, 512, 513, "onnxruntime-cuda"),
        # unless nobody wants longer ones.
        ("ort-tensorrt-fp16", False, 512, None, "onnxruntime-tensorrt"),
        # A plan is what somebody built for its shapes; a length that was asked for goes first.
        ("tensorrt-fp16", True, 8192, None, "tensorrt"),
        ("tensorrt-fp16", True, 8192, 256, "tensorrt"),
        ("tensorrt-fp16", True, 8192, 1024, "onnxruntime-cuda"),
    ],
)
def test_auto_cuts_no_rows_that_another_engine_takes_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    plan: bool,
    most: int,
    allowed: int | None,
    chosen: str,
) -> None:
    tried: list[str] = []

    def opening(name: str, directory: Path, setup: EngineSetup) -> MockEngine:
        tried.append(name)
        return MockEngine()

    if plan:
        (tmp_path / "model.plan").write_bytes(b"plan")
    monkeypatch.setattr(selection, "open_engine", opening)
    monkeypatch.setattr(selection, "find_gpu", lambda: H100)
    monkeypatch.setattr(selection, "tensorrt_version", lambda: "10.16.1.11")
    described = msgspec.structs.replace(manifest(target, plan=plan), max_tokens=most)
    own_target = load_target_profile(target)
    open_best(tmp_path, AUTO, described, own_target, EngineOptions(max_tokens=allowed))
    assert tried == [chosen]


def test_asked_for_hardware_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.engines.find_gpu", lambda: None)
    monkeypatch.setattr(selection, "find_gpu", lambda: None)
    own_target = load_target_profile("cuda-fp16")
    with pytest.raises(EngineUnavailable, match="needs an NVIDIA GPU and none is visible"):
        open_best(tmp_path, "onnxruntime-cuda", manifest("cuda-fp16"), own_target, EngineOptions())


def test_limits_are_those_of_the_engine_that_runs() -> None:
    described = manifest("cuda-fp16", plan=True)
    own_target = load_target_profile("cuda-fp16")
    assert serving_target("tensorrt", described, own_target).name == "tensorrt-fp16"
    assert serving_target("onnxruntime-cuda", described, own_target).name == "cuda-fp16"
    on_cpu = serving_target("onnxruntime-cpu", described, own_target)
    assert on_cpu.token_budget == load_target_profile("cpu-fp32").token_budget
    assert on_cpu.precision == "fp16"


def test_what_an_engine_is_opened_for() -> None:
    own_target = load_target_profile("ort-tensorrt-fp16")
    allowed = EngineOptions(max_rows=8, max_tokens=128, memory_bytes=1 << 30, host_code=True)
    found = setup_for("onnxruntime-tensorrt", manifest(), own_target, allowed)
    assert (found.max_rows, found.max_tokens, found.memory_bytes) == (8, 128, 1 << 30)
    assert found.inputs == ("input_ids", "attention_mask")
    assert found.host_code
    assert setup_for("onnxruntime-cpu", None, None, EngineOptions(max_rows=999)).max_rows == 64
    assert setup_for("mock", None, None, allowed) == EngineSetup()
