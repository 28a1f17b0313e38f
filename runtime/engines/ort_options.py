"""Options of ONNX Runtime's CUDA and TensorRT providers.

onnxruntime.ai/docs/execution-providers, checked against the libraries of onnxruntime-gpu 1.31.1.
"""

from runtime.engines import EngineSetup
from runtime.errors import EngineUnavailable
from runtime.shapes import ShapeRange

CPU, CUDA, TENSORRT = (
    "CPUExecutionProvider",
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
)
# Versions from the first to before the second drop the graph's types for TensorRT, because of a
# wrong version comparison: github.com/microsoft/onnxruntime/pull/29779. The newest checked, 1.31.1,
# still does: it calls createNetworkV2 without flags.
_UNTYPED_VERSIONS = ((1, 27), (1, 32))


def keeps_types(version: str) -> bool:
    """Whether this version of ONNX Runtime gives TensorRT the types of the graph's values."""
    first, fixed = _UNTYPED_VERSIONS
    found = tuple(int(part) for part in version.split(".")[:2])
    return not first <= found < fixed


def provider_options(
    name: str, setup: EngineSetup, *, typed: bool = True, external_weights: bool = False
) -> list[tuple[str, dict[str, str]]]:
    """The providers of engine `name`, best first, and their options.

    `typed` says that ONNX Runtime gives TensorRT the graph's types (`keeps_types`),
    `external_weights` that the weights are in a file beside the graph. Raises EngineUnavailable for
    a setup that the provider cannot honour.
    """
    if name == "onnxruntime-cpu":
        return [(CPU, {})]
    cuda = {
        "device_id": "0",
        # Grow by the requested size: doubling wastes up to half of the card on the largest call.
        "arena_extend_strategy": "kSameAsRequested",
        # TensorFloat-32 would round the graph's float32 parts, the score head above all.
        "use_tf32": "0",
        # For half-precision graphs that we did not export: accumulate the fused norm in float32.
        "enable_skip_layer_norm_strict_mode": "1",
        "enable_cuda_graph": "1" if setup.graph_tokens and name == "onnxruntime-cuda" else "0",
    }
    if setup.memory_bytes is not None:
        cuda["gpu_mem_limit"] = str(setup.memory_bytes)
    if name == "onnxruntime-cuda":
        return [(CUDA, cuda)]
    tensorrt = _tensorrt_options(name, setup, typed)
    if external_weights:
        # Otherwise the weights are put into the graph's message, which ends at 2 GiB.
        tensorrt["trt_load_user_initializer"] = "1"
    return [(TENSORRT, tensorrt), (CUDA, cuda)]


def _tensorrt_options(name: str, setup: EngineSetup, typed: bool) -> dict[str, str]:
    shapes = compiled_shapes(name, setup)
    if len(shapes) != 1:
        raise EngineUnavailable(
            f"engine {name} compiles for one range of shapes, found {len(shapes)}; choose the "
            "target ort-tensorrt-fp16, or a plan for several ranges"
        )
    (one,) = shapes
    options = {
        "device_id": "0",
        **_precision_options(setup.precision, typed),
        # Without these the engine would be built again for every new shape.
        **{
            f"trt_profile_{which}_shapes": ",".join(f"{n}:{rows}x{tokens}" for n in setup.inputs)
            for which, rows, tokens in zip(("min", "opt", "max"), *one, strict=True)
        },
        "trt_context_memory_sharing_enable": "1",
    }
    if setup.memory_bytes is not None:
        # Limits the scratch memory of a kernel; the rest follows from the shapes.
        options["trt_max_workspace_size"] = str(setup.memory_bytes)
    if setup.cache is not None:
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(setup.cache),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(setup.cache),
        }
    return options


def _precision_options(precision: str, typed: bool) -> dict[str, str]:
    """Precision options of the TensorRT provider.

    With none enabled, the provider builds a strongly typed network, which keeps the graph's types.
    Versions that cannot do so need the graph's precision enabled, or TensorRT computes in float32;
    TensorRT then chooses the precision of each layer.
    """
    enabled = None if typed else precision
    options = {f"trt_{one}_enable": str(int(one == enabled)) for one in ("fp16", "bf16", "int8")}
    return options if typed else options | {"trt_layer_norm_fp32_fallback": "1"}


def compiled_shapes(name: str, setup: EngineSetup) -> tuple[ShapeRange, ...]:
    if name != "onnxruntime-tensorrt":
        return ()
    return tuple(one.lowered(setup.max_rows, setup.max_tokens) for one in setup.shapes)
