"""Engine selection: the requested engine, or the best one that fits this machine.

A requested engine without its hardware is an error, never a silent fallback. Two requests leave a
choice. AUTO takes the plan if it fits this machine, else ONNX Runtime's TensorRT provider if the
graph was exported for it, else its CUDA provider. ONNX, which NVIDIA's two known profile ids stand
for, takes the graph by CUDA. Both take the CPU for an artifact that was exported for the CPU, or
where there is no GPU.

Engines that would truncate rows are skipped. A GPU engine that fails is logged and the next GPU
engine is tried. A failure never leads to the CPU: the GPU's memory may be free at the next start.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from runtime.engines import (
    GPU_ENGINES,
    MODEL_FILE,
    PLAN_FILE,
    VISION_FILE,
    VISION_PLAN_FILE,
    Engine,
    EngineSetup,
    open_engine,
)
from runtime.engines.tensorrt import tensorrt_version
from runtime.errors import (
    ArtifactError,
    EngineError,
    EngineUnavailable,
    OutOfMemory,
    ServingError,
)
from runtime.external_data import check_external_files
from runtime.gpu import Gpu, find_gpu
from runtime.manifest import Manifest
from runtime.model_files import find_file, open_file
from runtime.profile import TargetProfile, load_target_profile, target_profile_names
from runtime.shapes import ShapeRange, longest

_log = logging.getLogger(__name__)

AUTO, ONNX = "auto", "onnx"
# The target whose limits apply to an engine that is not the artifact's own.
_USUAL_TARGETS = {
    "tensorrt": "tensorrt-fp16",
    "onnxruntime-tensorrt": "ort-tensorrt-fp16",
    "onnxruntime-cuda": "cuda-fp16",
    "onnxruntime-cpu": "cpu-fp32",
    # Triton has its own batch size, whatever the artifact was exported for.
    "triton": "triton",
}
VISION_ENGINES = (
    *("tensorrt", "onnxruntime-cpu", "onnxruntime-cuda"),
    *("openvino-fp32", "openvino-bf16"),
)
# Graphs in these precisions run well, or at all, only on the engine they were exported for.
_BOUND_PRECISIONS = {"bf16", "int8", "int8-weights", "fp8"}


@dataclass(frozen=True)
class EngineOptions:
    """What the caller sets for the engine: the most rows and tokens of a call (None: the
    artifact's own limit); `cache`, `memory_bytes` and `host_code` as in EngineSetup."""

    max_rows: int | None = None
    max_tokens: int | None = None
    cache: Path | None = None
    memory_bytes: int | None = None
    host_code: bool = False


def default_engine(manifest: Manifest, own_target: TargetProfile, target: str | None) -> str:
    """The engine of an artifact when none is requested: its plan's if it has one, unless the
    requested target is the graph's `own_target`."""
    if manifest.plan is not None and target in (None, manifest.plan.target):
        return "tensorrt"
    return own_target.engine


def open_best(
    directory: Path,
    requested: str,
    manifest: Manifest | None,
    own_target: TargetProfile | None,
    options: EngineOptions,
) -> Engine:
    """Open the engine called `requested`; for AUTO and ONNX, the best one that fits.

    `manifest` and `own_target`, the target that it names, are None for a directory without a
    manifest. Raises EngineUnavailable with the reasons when no engine fits. Raises EngineError when
    GPU engines fail and only the CPU is left, and EngineError or OutOfMemory when the requested
    engine fails. Raises DeviceLost when the GPU fails, and ArtifactError when the graph, plan or
    weights are not files of `directory`.
    """
    _check_files(directory)
    gpu = find_gpu()
    if requested not in (AUTO, ONNX):
        return _open(directory, requested, manifest, own_target, options, gpu)
    names = candidates(requested, own_target, has_plan=(directory / PLAN_FILE).is_file(), gpu=gpu)
    if manifest is not None and manifest.vision is not None:
        names = [name for name in names if name in VISION_ENGINES]
    refusals: list[str] = []
    failure: ServingError | None = None
    for name in names:
        if failure is not None and name not in GPU_ENGINES:
            raise EngineError(
                f"{requested} does not fall back to the CPU when a GPU fails: "
                f"{'; '.join(refusals)}; free the GPU's memory or repair it and start again, or "
                f"choose the target that runs on {name}"
            ) from failure
        try:
            _refuse_short(name, manifest, own_target, options)
            engine = _open(directory, name, manifest, own_target, options, gpu)
        except (EngineError, OutOfMemory) as error:
            refusals.append(f"not {name}: {error}")
            if not isinstance(error, EngineUnavailable):
                failure = error
            continue
        level = logging.WARNING if refusals else logging.INFO
        _log.log(level, "%s chose engine %s", requested, "; ".join([name, *refusals]))
        return engine
    raise EngineUnavailable(f"no engine can open this artifact: {'; '.join(refusals)}")


def _check_files(directory: Path) -> None:
    """Raise ArtifactError unless graphs, plans and weights are files of the directory.

    Engines get only the names, and would open whatever has them."""
    graphs = MODEL_FILE, VISION_FILE
    for file in (*graphs, PLAN_FILE, VISION_PLAN_FILE):
        try:
            open_file(find_file(directory, file)).close()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ArtifactError(f"cannot read {file}: {error.strerror}") from error
        if file in graphs:
            check_external_files(directory / file)


def open_tower(directory: Path, text_engine: str, options: EngineOptions) -> Engine:
    """The engine of an artifact's tower: the same as that of its texts.

    Raises EngineUnavailable for an engine that does not compute images.
    """
    if text_engine not in VISION_ENGINES:
        raise EngineUnavailable(
            f"engine {text_engine} does not compute images, wanted one of "
            f"{', '.join(VISION_ENGINES)}; export the checkpoint for a target that runs on one"
        )
    setup = EngineSetup(inputs=(), memory_bytes=options.memory_bytes, host_code=options.host_code)
    return open_engine(text_engine, directory, setup, tower=True)


def takes_images(target: TargetProfile) -> bool:
    """Whether a model that takes images can be made for `target`: of TensorRT's, those that say how
    many tiles a plan takes."""
    planned = target.engine != "tensorrt" or target.tiles is not None
    return target.engine in VISION_ENGINES and planned


def image_targets() -> list[str]:
    """The targets that models which take images can be made for."""
    targets = map(load_target_profile, target_profile_names())
    return [target.name for target in targets if takes_images(target)]


def candidates(
    requested: str, own_target: TargetProfile | None, *, has_plan: bool, gpu: Gpu | None
) -> list[str]:
    """Engines to try for AUTO or ONNX, best first."""
    plan = ["tensorrt"] if has_plan and requested == AUTO and gpu else []
    if own_target is not None and own_target.precision in _BOUND_PRECISIONS:
        return list(dict.fromkeys([*plan, own_target.engine]))
    found = [*plan, *(_on_gpu(requested, own_target) if gpu else [])]
    if own_target is not None and own_target.engine not in GPU_ENGINES:
        return [*found, own_target.engine]
    return found if gpu else ["onnxruntime-cpu"]


def _on_gpu(requested: str, own_target: TargetProfile | None) -> list[str]:
    """GPU engines for the graph. ONNX Runtime's TensorRT provider chooses types of its own, so it
    computes only what was proven on it when it was exported."""
    compiled = "onnxruntime-tensorrt"
    proven = own_target is not None and own_target.engine == compiled
    return [*([compiled] if requested == AUTO and proven else []), "onnxruntime-cuda"]


def serving_target(engine: str, manifest: Manifest, own_target: TargetProfile) -> TargetProfile:
    """The target whose limits apply when `engine` runs the artifact, whose graph is for
    `own_target`."""
    if engine == "tensorrt" and manifest.plan is not None:
        return load_target_profile(manifest.plan.target)
    if own_target.engine == engine or engine not in _USUAL_TARGETS:
        return own_target
    return msgspec.structs.replace(usual_target(engine), precision=own_target.precision)


def usual_target(engine: str) -> TargetProfile:
    """The default target of `engine`, for a directory without a manifest."""
    return load_target_profile(_USUAL_TARGETS[engine])


def plan_mismatch(manifest: Manifest, gpu: Gpu, version: str, *, host_code: bool) -> str | None:
    """Why the artifact's plan does not fit this GPU and this version of TensorRT; None if it fits.

    A plan holds kernels for one compute capability, which the manifest records. It runs on the
    version of TensorRT that built it. A version-compatible plan also runs on later versions of the
    same major version; it contains code for the CPU.
    """
    plan, built = manifest.plan, manifest.hardware
    if plan is None or built is None:
        return None
    for what, wanted, found in (
        ("compute capability", built.compute_capability, gpu.compute_capability),
        ("CPU architecture", built.cpu_architecture, gpu.cpu_architecture),
    ):
        if wanted != found:
            return f"it was built for {what} {wanted} ({built.gpu}), found {found} ({gpu.name})"
    if not _version_fits(built.tensorrt, version, compatible=plan.version_compatible):
        return f"it was built with TensorRT {built.tensorrt}, found {version}"
    if plan.version_compatible and not host_code:
        return (
            "it contains code for the CPU, to run on later versions of TensorRT, which "
            "NIM_TRT_ENGINE_HOST_CODE_ALLOWED=1 allows"
        )
    return None


def _version_fits(built: str, found: str, *, compatible: bool) -> bool:
    if built == found:
        return True
    before, now = _numbers(built), _numbers(found)
    return compatible and before[0] == now[0] and before <= now


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def _open(
    directory: Path,
    name: str,
    manifest: Manifest | None,
    own_target: TargetProfile | None,
    options: EngineOptions,
    gpu: Gpu | None,
) -> Engine:
    if name == "tensorrt" and manifest is not None:
        _refuse_mismatch(directory, manifest, options, gpu)
    return open_engine(name, directory, setup_for(name, manifest, own_target, options))


def setup_for(
    engine: str, manifest: Manifest | None, own_target: TargetProfile | None, options: EngineOptions
) -> EngineSetup:
    """The setup that `engine` is opened with: the target's shapes and limits, lowered to those of
    `options`."""
    if manifest is not None and own_target is not None:
        target = serving_target(engine, manifest, own_target)
    elif engine in _USUAL_TARGETS:
        target = own_target or usual_target(engine)
    else:
        return EngineSetup()
    most = min((n for n in (options.max_tokens, manifest and manifest.max_tokens) if n), default=0)
    setup = EngineSetup(
        precision=target.precision,
        max_rows=min(options.max_rows or target.max_rows, target.max_rows),
        padding_waste=target.padding_waste,
        shapes=tuple(ShapeRange(one.batch, one.sequence) for one in target.shapes),
        graph_tokens=target.graph_tokens,
        cache=_cache_of(manifest, options),
        memory_bytes=options.memory_bytes,
        host_code=options.host_code,
    )
    setup = replace(setup, max_tokens=most) if most else setup
    return replace(setup, inputs=tuple(manifest.inputs)) if manifest is not None else setup


def _refuse_short(
    engine: str, manifest: Manifest | None, own_target: TargetProfile | None, options: EngineOptions
) -> None:
    """Raise EngineUnavailable when the engine's shapes would truncate rows that others take whole.

    A plan's shapes were chosen when it was built, so it is too short only for a requested length.
    The graph's own target bounds the manifest's length, so only another target can be too short.
    """
    if manifest is None or own_target is None:
        return
    if engine == "tensorrt":
        shapes = manifest.plan.shapes if manifest.plan is not None else []
        wanted = options.max_tokens or 0
    else:
        shapes = list(serving_target(engine, manifest, own_target).shapes)
        wanted = options.max_tokens or manifest.max_tokens
    most = longest([ShapeRange(one.batch, one.sequence) for one in shapes])
    if most is not None and wanted > most:
        raise EngineUnavailable(
            f"it takes rows of at most {most} tokens, wanted {wanted}; MAX_SEQUENCE_LENGTH={most} "
            "allows it"
        )


def _cache_of(manifest: Manifest | None, options: EngineOptions) -> Path | None:
    """The artifact's own cache folder; None without a manifest, so that the engine is compiled at
    each start. ONNX Runtime identifies compiled engines by the graph's name, not by its weights."""
    if manifest is None or options.cache is None:
        return None
    return options.cache / "engines" / manifest.version


def _refuse_mismatch(
    directory: Path, manifest: Manifest, options: EngineOptions, gpu: Gpu | None
) -> None:
    plan = manifest.plan
    target = plan.target if plan is not None else manifest.target
    build = f"rerank-export build {directory} --target {target}"
    for file in (PLAN_FILE, *([VISION_PLAN_FILE] if manifest.vision is not None else [])):
        if not (directory / file).is_file():
            raise EngineUnavailable(
                f"target {target} needs {file}, which is not in the artifact; build it: {build}"
            )
    if gpu is None:
        return  # open_engine says what is missing
    mismatch = plan_mismatch(manifest, gpu, tensorrt_version(), host_code=options.host_code)
    if mismatch is not None:
        raise EngineUnavailable(f"{PLAN_FILE} does not fit: {mismatch}; build it here: {build}")
    if manifest.hardware is not None and manifest.hardware.gpu != gpu.name:
        _log.warning(
            "%s was built on %s and runs on %s: it fits, but may be slower than one built here",
            PLAN_FILE,
            manifest.hardware.gpu,
            gpu.name,
        )
