"""The calls of TensorRT's API, and messages when it refuses; its bindings are a stand-in."""

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from onnx import parser

from exporter import tensorrt_plan
from exporter.errors import PlanFailed
from exporter.tensorrt_plan import (
    Machine,
    compile_plan,
    profile_ranges,
    refuse_machine,
    this_machine,
)
from runtime.errors import EngineUnavailable
from runtime.gpu import Gpu
from runtime.profile import Shapes, TargetProfile, load_target_profile
from tests.exporter.tensorrt_stand_in import BuilderFlag, LayerType, ProfilingVerbosity, TensorRt

H100 = Gpu("NVIDIA H100 80GB HBM3", "9.0", "x86_64", "580.65.06")
TARGET = load_target_profile("tensorrt-fp16-4096")
TEXTS = parser.parse_model(
    """<ir_version: 10, opset_import: ["" : 20]>
    g (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask)
        => (int64[batch, sequence] y) { y = Mul (input_ids, attention_mask) }"""
).SerializeToString()


def compiled(
    tmp_path: Path,
    trt: TensorRt,
    target: TargetProfile = TARGET,
    timing_cache: Path | None = None,
) -> list[str]:
    """Compile a "graph"; what was said."""
    output: list[str] = []
    (tmp_path / "model.onnx").write_bytes(TEXTS)
    compile_plan(
        Machine(trt, H100),
        tmp_path / "model.onnx",
        tmp_path / "model.plan",
        target,
        timing_cache=timing_cache,
        log=output.append,
    )
    return output


def test_a_plan_is_strongly_typed_and_takes_the_targets_shapes(tmp_path: Path) -> None:
    trt = TensorRt()
    output = compiled(tmp_path, trt)
    assert (tmp_path / "model.plan").read_bytes().endswith(TEXTS)
    assert trt.seen.flags == 1 << 1  # STRONGLY_TYPED
    assert trt.seen.config.flags == set()  # no TF32, no half precision by the builder's choice
    assert trt.seen.config.profiling_verbosity == ProfilingVerbosity.DETAILED
    assert [profile.shapes for profile in trt.seen.config.profiles] == [
        dict.fromkeys(("input_ids", "attention_mask"), shapes)
        for shapes in (((1, 3), (16, 256), (64, 512)), ((1, 3), (4, 2048), (8, 4096)))
    ]
    assert output == ["Building: 2 steps", "Building: step 1 of 2"]
    assert not trt.seen.layers[1].attention.decomposable  # or slow kernels would go unseen


def layer(name: str, *nodes: str, tactic: str = "") -> dict[str, Any]:
    """What the inspector says of a kernel that computes `nodes`."""
    metadata = "".join(f"[ONNX Layer: {node}]" for node in nodes)
    return {"Name": name, "LayerType": "kgen", "TacticName": tactic, "Metadata": metadata}


FUSED = layer("_gemm_mha_v2_myl0_4", "attention", tactic="sm90_mha")
IN_PARTS = [layer("gemm_2", "attention_1"), layer("__myl_MaxSubExp", "attention_1", "next")]
NONE_KNOWN = "names no layer of attention: which are in parts is unknown"


@pytest.mark.parametrize(
    ("inspected", "told"),
    [
        ([FUSED, *IN_PARTS], "attention of 1 of 2 layers is computed in parts: attention_1"),
        ([FUSED, layer("fmha", "attention_1")], "all 2 layers is in fused kernels after all"),
        ([layer("gemm", "attention"), *IN_PARTS], "2 of 2 layers .*: attention, attention_1"),
        ([layer("_mha", "pre_attention"), layer("gemm", "attention"), *IN_PARTS], "2 of 2 layers"),
        (["_gemm_mha_v2_myl0_4", "gemm"], NONE_KNOWN),  # names alone
        ([], NONE_KNOWN),
    ],
)
def test_attention_that_cannot_be_fused_is_said_and_compiled_in_parts(
    tmp_path: Path, inspected: list[Any], told: str
) -> None:
    trt = TensorRt(fails="fusion")
    trt.layers.append(LayerType.ATTENTION_INPUT)
    trt.inspected = inspected
    output = compiled(tmp_path, trt)
    assert (tmp_path / "model.plan").read_bytes().endswith(TEXTS)
    assert all(one.attention.decomposable for one in trt.seen.layers[1:])
    (said,) = (line for line in output if "with fused attention only" in line)
    assert "all 2 layers (no fused kernel for this attention)" in said
    assert re.search(told, output[-1])
    assert trt.seen.host_code is False


def test_a_plan_that_cannot_be_inspected_is_kept(tmp_path: Path) -> None:
    trt = TensorRt(fails="fusion")
    trt.Runtime = lambda _: SimpleNamespace(deserialize_cuda_engine=lambda _: None)  # type: ignore[method-assign]
    assert compiled(tmp_path, trt)[-1].endswith(NONE_KNOWN)
    assert (tmp_path / "model.plan").exists()


def test_images_bring_as_many_tiles_as_fit_into_a_call() -> None:
    tokens = (-1, -1)
    inputs = {"input_ids": tokens, "image_index": tokens, "image_embeds": (-1, 256, 2048)}
    short, long = profile_ranges(inputs, TARGET)
    assert short["input_ids"] == short["image_index"] == ((1, 3), (16, 256), (64, 512))
    assert short["image_embeds"] == ((0, 256, 2048), (16, 256, 2048), (128, 256, 2048))
    assert long["image_embeds"] == ((0, 256, 2048), (4, 256, 2048), (128, 256, 2048))
    # A tile that no call has room for.
    inputs["image_embeds"] = (-1, 50_000, 8)
    assert profile_ranges(inputs, TARGET)[0]["image_embeds"] == ((0, 50_000, 8),) * 3


def test_a_tower_has_one_profile_of_tiles() -> None:
    assert profile_ranges({"pixel_values": (-1, 3, 512, 512)}, TARGET) == [
        {"pixel_values": ((1, 3, 512, 512), (7, 3, 512, 512), (28, 3, 512, 512))}
    ]


def test_a_version_compatible_target_says_so(tmp_path: Path) -> None:
    trt = TensorRt("11.4.0.106")
    compiled(tmp_path, trt, msgspec.structs.replace(TARGET, version_compatible=True))
    assert trt.seen.config.flags == {BuilderFlag.VERSION_COMPATIBLE}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (None, b"+", False),
        (b"measured", b"measured+", False),
        (b"other GPU", b"other GPU", True),  # or any file of the user's
        (b"broken", b"broken", True),
    ],
)
def test_the_timing_cache_is_used_and_kept(
    tmp_path: Path, before: bytes | None, after: bytes, message: bool
) -> None:
    cache = tmp_path / "caches" / "timing"
    if before is not None:
        cache.parent.mkdir()
        cache.write_bytes(before)
    output = compiled(tmp_path, TensorRt(), timing_cache=cache)
    assert cache.read_bytes() == after
    assert [path.name for path in cache.parent.iterdir()] == ["timing"]
    assert any("another GPU or version" in line for line in output) == message


def test_a_parser_error_names_the_node(tmp_path: Path) -> None:
    with pytest.raises(PlanFailed, match=r"node 7 'node_rms_norm' \(RMSNormalization\): no imp"):
        compiled(tmp_path, TensorRt(fails="parse"))
    assert not (tmp_path / "model.plan").exists()


@pytest.mark.parametrize(
    ("version", "operator", "told"),
    [
        ("10.14.1", "RMSNormalization", "wanted TensorRT 10.15 or newer, whose parser takes them"),
        ("10.16.1.11", "Swish", "wanted TensorRT 11.0 or newer"),
        # Known, and refused nevertheless; never heard of.
        ("11.4.0.106", "RMSNormalization", "use a newer TensorRT, or another target"),
        ("11.4.0.106", "Frobnicate", "use a newer TensorRT, or another target"),
    ],
)
def test_a_parser_that_is_too_old_is_told_by_its_version(
    tmp_path: Path, version: str, operator: str, told: str
) -> None:
    with pytest.raises(PlanFailed, match=told):
        compiled(tmp_path, TensorRt(version, fails=f"parse {operator}"))


def test_fp8_without_rounding_in_the_graph_is_refused(tmp_path: Path) -> None:
    target = load_target_profile("tensorrt-fp8")
    with pytest.raises(PlanFailed, match="found no Q/DQ in the graph, wanted fp8"):
        compiled(tmp_path, TensorRt(), target)
    trt = TensorRt()
    trt.layers += [LayerType.QUANTIZE, LayerType.DEQUANTIZE]
    compiled(tmp_path, trt, target)
    assert (tmp_path / "model.plan").exists()


def test_a_build_that_fails_says_what_tensorrt_complained_of(tmp_path: Path) -> None:
    with pytest.raises(PlanFailed, match=r"could not build model\.plan: no kernel for this layer$"):
        compiled(tmp_path, TensorRt(fails="build"))
    assert not (tmp_path / "model.plan").exists()


def test_shapes_that_tensorrt_refuses_are_named(tmp_path: Path) -> None:
    shapes = Shapes(batch=(1, 1, 2000), sequence=(3, 3, 3))
    with pytest.raises(PlanFailed, match=r"input_ids \[\(1, 3\), \(1, 3\), \(2000, 3\)\]"):
        compiled(tmp_path, TensorRt(), msgspec.structs.replace(TARGET, shapes=(shapes,)))


def test_an_interruption_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python hands Ctrl-C to whatever runs: here the monitor, in whose hands TensorRT loses it."""

    class Clock:
        @staticmethod
        def monotonic() -> float:
            raise KeyboardInterrupt

    monkeypatch.setattr(tensorrt_plan, "time", Clock)
    with pytest.raises(KeyboardInterrupt):
        compiled(tmp_path, TensorRt())
    assert not (tmp_path / "model.plan").exists()


def test_progress_is_logged_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    output: list[str] = []
    monitor: Any = tensorrt_plan._monitor(TensorRt(), output.append)
    monitor.phase_start("Building", None, 100)
    for step in range(100):
        now[0] += 1
        assert monitor.step_complete("Building", step)
    assert 19 <= len(output) - 1 <= 21
    assert output[-1].startswith("Building: step 9")


def test_the_facts_of_the_machine_are_the_manifests() -> None:
    facts = Machine(TensorRt(), H100).facts()
    assert msgspec.to_builtins(facts) == {
        "gpu": "NVIDIA H100 80GB HBM3",
        "compute_capability": "9.0",
        "cpu_architecture": "x86_64",
        "driver": "580.65.06",
        "tensorrt": "10.16.1.11",
    }


@pytest.mark.parametrize(
    ("version", "capability", "target", "message"),
    [
        ("10.14.1", "9.0", "tensorrt-fp16", "found TensorRT 10.14.1, wanted 10.15 or newer"),
        ("10.16.1", "8.0", "tensorrt-fp8", "needs compute capability 8.9, found NVIDIA A100"),
        ("11.4.0", "8.9", "tensorrt-fp8", None),
        ("10.15.0", "7.5", "tensorrt-fp16", None),
    ],
)
def test_a_machine_that_cannot_build_is_refused(
    version: str, capability: str, target: str, message: str | None
) -> None:
    machine = Machine(TensorRt(version), Gpu("NVIDIA A100", capability, "x86_64", "580"))
    if message is None:
        refuse_machine(machine, load_target_profile(target))
        return
    with pytest.raises(EngineUnavailable, match=message):
        refuse_machine(machine, load_target_profile(target))


def test_without_tensorrt_nothing_is_built() -> None:
    with pytest.raises(EngineUnavailable, match="needs the package tensorrt"):
        this_machine(TARGET)
