"""ONNX Runtime's TensorRT provider: its options."""

from pathlib import Path

import onnxruntime as ort
import pytest

from runtime.engines import EngineSetup
from runtime.engines.ort_options import keeps_types, provider_options
from runtime.errors import EngineUnavailable
from runtime.shapes import ShapeRange

SHAPES = (ShapeRange((1, 16, 64), (3, 256, 512)),)


def enabled(precision: str, *, typed: bool) -> dict[str, str]:
    """What TensorRT is told of precisions."""
    setup = EngineSetup(precision=precision, shapes=SHAPES)
    (_, options), _ = provider_options("onnxruntime-tensorrt", setup, typed=typed)
    names = (
        "trt_fp16_enable",
        "trt_bf16_enable",
        "trt_int8_enable",
        "trt_layer_norm_fp32_fallback",
    )
    return {name: options[name] for name in names if name in options}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_typed_network_gets_no_precision(precision: str) -> None:
    wanted = {"trt_fp16_enable": "0", "trt_bf16_enable": "0", "trt_int8_enable": "0"}
    assert enabled(precision, typed=True) == wanted


@pytest.mark.parametrize(
    ("precision", "fp16", "bf16"), [("fp32", "0", "0"), ("fp16", "1", "0"), ("bf16", "0", "1")]
)
def test_a_network_without_types_gets_the_graphs_precision(
    precision: str, fp16: str, bf16: str
) -> None:
    assert enabled(precision, typed=False) == {
        "trt_fp16_enable": fp16,
        "trt_bf16_enable": bf16,
        "trt_int8_enable": "0",
        "trt_layer_norm_fp32_fallback": "1",
    }


def test_versions_that_lose_the_types_are_known() -> None:
    found = [keeps_types(version) for version in ("1.26.0", "1.27.0", "1.31.1", "1.32.0")]
    assert found == [True, False, False, True]
    # The pinned version is one whose library was looked at; look again before another is pinned.
    assert ort.__version__ == "1.31.1"


def test_tensorrts_kernels_are_bounded_as_cudas_arena_is() -> None:
    bounded = EngineSetup(shapes=SHAPES, memory_bytes=4 << 30)
    (_, options), (_, cuda) = provider_options("onnxruntime-tensorrt", bounded)
    assert options["trt_max_workspace_size"] == cuda["gpu_mem_limit"] == str(4 << 30)
    (_, options), _ = provider_options("onnxruntime-tensorrt", EngineSetup(shapes=SHAPES))
    assert "trt_max_workspace_size" not in options


def test_tensorrt_gets_its_shapes_and_caches(tmp_path: Path) -> None:
    setup = EngineSetup(precision="fp16", shapes=SHAPES, max_tokens=400, cache=tmp_path)
    (first, options), (second, _) = provider_options("onnxruntime-tensorrt", setup)
    assert (first, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert options["trt_profile_min_shapes"] == "input_ids:1x3,attention_mask:1x3"
    assert options["trt_profile_opt_shapes"] == "input_ids:16x256,attention_mask:16x256"
    # NIM_TRITON_MAX_SEQ_LENGTH lowers what memory is reserved for.
    assert options["trt_profile_max_shapes"] == "input_ids:64x400,attention_mask:64x400"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(tmp_path)
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"


def test_tensorrt_without_a_cache_keeps_none() -> None:
    (_, options), _ = provider_options("onnxruntime-tensorrt", EngineSetup(shapes=SHAPES))
    assert not [name for name in options if "cache" in name]


def test_weights_beside_the_graph_stay_out_of_its_message() -> None:
    """A message ends at 2 GiB, which the 1B model's weights exceed in half precision."""
    setup, name = EngineSetup(shapes=SHAPES), "onnxruntime-tensorrt"
    (_, beside), _ = provider_options(name, setup, external_weights=True)
    (_, inside), _ = provider_options(name, setup)
    assert beside == inside | {"trt_load_user_initializer": "1"}


def test_tensorrt_takes_one_range_of_shapes() -> None:
    with pytest.raises(EngineUnavailable, match="one range of shapes, found 2"):
        provider_options("onnxruntime-tensorrt", EngineSetup(shapes=SHAPES * 2))
