"""Which engine opens an artifact: the one that was asked for, or the best that fits here.

Asked-for hardware that is missing is an error. Two wishes leave a choice: AUTO (the plan if it fits
this machine, else ONNX Runtime's TensorRT provider, else its CUDA provider) and ONNX (what NVIDIA's
two known profile ids mean: the graph, by CUDA). Either goes to the CPU only for an artifact that
was made for the CPU, or where there is no GPU. An engine that takes shorter rows than the graph or
the operator wants is no choice, and one that fails is told and passed over, but not for the CPU: a
GPU that has no memory now is worth another start.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from runtime.engines import GPU_ENGINES, MODEL_FILE, PLAN_FILE, Engine, EngineSetup, open_engine
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
from runtime.profile import TargetProfile, load_target_profile
from runtime.shapes import ShapeRange, longest

_log = logging.getLogger(__name__)

AUTO, ONNX = "auto", "onnx"
# The target whose limits hold for an engine that is not the artifact's own.
_USUAL_TARGETS = {
    "tensorrt": "tensorrt-fp16",
    "onnxruntime-tensorrt": "ort-tensorrt-fp16",
    "onnxruntime-cuda": "cuda-fp16",
    "onnxruntime-cpu": "cpu-fp32",
    # Its calls have a size of their own, whatever the artifact was exported for.
    "triton": "triton",
}
# Graphs that only the engine that they were written for computes well, or at all.
_BOUND_PRECISIONS = {"bf16", "int8", "int8-weights", "fp8"}


@dataclass(frozen=True)
class Allowance:
    """What whoever opens an artifact allows: the most rows and tokens of a call (None: the
    artifact's), and what EngineSetup says of `cache`, `memory_bytes` and `host_code`."""

    max_rows: int | None = None
    max_tokens: int | None = None
    cache: Path | None = None
    memory_bytes: int | None = None
    host_code: bool = False


def default_engine(manifest: Manifest, target: str | None) -> str:
    """The engine of an artifact for which none was named: its plan's, where it has one, unless
    the target that was asked for is the graph's."""
    if manifest.plan is not None and target in (None, manifest.plan.target):
        return "tensorrt"
    return load_target_profile(manifest.target).engine


def open_best(
    directory: Path,
    wish: str,
    manifest: Manifest | None,
    own: TargetProfile | None,
    allowed: Allowance,
) -> Engine:
    """Open the engine called `wish`, or for AUTO and ONNX the best that fits.

    `manifest` and `own`, the target it names, are None for a directory that nothing describes.
    Raises EngineUnavailable with the reasons, EngineError when engines on the GPU fail so that only
    the CPU is left, it or OutOfMemory when the one engine that was asked for fails, DeviceLost when
    the GPU does, and ArtifactError when graph, plan or weights are no files of `directory`.
    """
    _check_files(directory)
    gpu = find_gpu()
    if wish not in (AUTO, ONNX):
        return _open(directory, wish, manifest, own, allowed, gpu)
    names = candidates(wish, own, has_plan=(directory / PLAN_FILE).is_file(), gpu=gpu)
    refusals: list[str] = []
    failure: ServingError | None = None
    for name in names:
        if failure is not None and name not in GPU_ENGINES:
            raise EngineError(
                f"{wish} takes no CPU for a GPU that fails: {'; '.join(refusals)}; free the GPU's "
                f"memory or repair it and start again, or choose the target that runs on {name}"
            ) from failure
        try:
            _refuse_short(name, manifest, allowed)
            engine = _open(directory, name, manifest, own, allowed, gpu)
        except (EngineError, OutOfMemory) as error:
            refusals.append(f"not {name}: {error}")
            if not isinstance(error, EngineUnavailable):
                failure = error
            continue
        level = logging.WARNING if refusals else logging.INFO
        _log.log(level, "%s chose engine %s", wish, "; ".join([name, *refusals]))
        return engine
    raise EngineUnavailable(f"no engine can open this artifact: {'; '.join(refusals)}")


def _check_files(directory: Path) -> None:
    """Raise ArtifactError where graph, plan or weights are no files of the directory: engines are
    given their names, and open whatever has them."""
    for file in (MODEL_FILE, PLAN_FILE):
        try:
            open_file(find_file(directory, file)).close()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ArtifactError(f"cannot read {file}: {error.strerror}") from error
        if file == MODEL_FILE:
            check_external_files(directory / MODEL_FILE)


def candidates(
    wish: str, own: TargetProfile | None, *, has_plan: bool, gpu: Gpu | None
) -> list[str]:
    """Engines to try for the wish AUTO or ONNX, best first."""
    plan = ["tensorrt"] if has_plan and wish == AUTO and gpu else []
    if own is not None and own.precision in _BOUND_PRECISIONS:
        return list(dict.fromkeys([*plan, own.engine]))
    found = [*plan, *(_on_gpu(wish, own) if gpu else [])]
    if own is not None and own.engine not in GPU_ENGINES:
        return [*found, own.engine]
    return found if gpu else ["onnxruntime-cpu"]


def _on_gpu(wish: str, own: TargetProfile | None) -> list[str]:
    """Engines for the graph. TensorRT has to be told the graph's precision, and knows ONNX's own
    operators only."""
    for_tensorrt = wish == AUTO and own is not None and own.operators == "onnx"
    return [*(["onnxruntime-tensorrt"] if for_tensorrt else []), "onnxruntime-cuda"]


def serving_target(engine: str, manifest: Manifest) -> TargetProfile:
    """The target whose limits hold when `engine` runs the artifact."""
    if engine == "tensorrt" and manifest.plan is not None:
        return load_target_profile(manifest.plan.target)
    own = load_target_profile(manifest.target)
    if own.engine == engine or engine not in _USUAL_TARGETS:
        return own
    usual = load_target_profile(_USUAL_TARGETS[engine])
    return msgspec.structs.replace(usual, precision=own.precision)


def usual_target(engine: str) -> str:
    """The target to name for an engine that runs what nothing describes."""
    return _USUAL_TARGETS[engine]


def plan_misfit(manifest: Manifest, gpu: Gpu, version: str, *, host_code: bool) -> str | None:
    """Why the artifact's plan does not fit a machine with this GPU and TensorRT; None: it fits.

    A plan holds kernels for one compute capability, as its manifest records. It runs on its own
    version of TensorRT, or on later ones of the same major version when it was built to be
    compatible with them, which takes code for the CPU inside the plan.
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
            "it brings code for the CPU along, to run on later versions of TensorRT, which "
            "NIM_TRT_ENGINE_HOST_CODE_ALLOWED=1 would allow"
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
    own: TargetProfile | None,
    allowed: Allowance,
    gpu: Gpu | None,
) -> Engine:
    if name == "tensorrt" and manifest is not None:
        _refuse_misfit(directory, manifest, allowed, gpu)
    return open_engine(name, directory, setup_for(name, manifest, own, allowed))


def setup_for(
    engine: str, manifest: Manifest | None, own: TargetProfile | None, allowed: Allowance
) -> EngineSetup:
    """What `engine` is opened for: the target's shapes and limits, lowered to the allowed."""
    if manifest is not None:
        target = serving_target(engine, manifest)
    elif engine in _USUAL_TARGETS:
        target = own or load_target_profile(_USUAL_TARGETS[engine])
    else:
        return EngineSetup()
    most = min((n for n in (allowed.max_tokens, manifest and manifest.max_tokens) if n), default=0)
    setup = EngineSetup(
        precision=target.precision,
        max_rows=min(allowed.max_rows or target.max_rows, target.max_rows),
        padding_waste=target.padding_waste,
        shapes=tuple(ShapeRange(one.batch, one.sequence) for one in target.shapes),
        graph_tokens=target.graph_tokens,
        cache=_cache_of(manifest, allowed),
        memory_bytes=allowed.memory_bytes,
        host_code=allowed.host_code,
    )
    setup = replace(setup, max_tokens=most) if most else setup
    return replace(setup, inputs=tuple(manifest.inputs)) if manifest is not None else setup


def _refuse_short(engine: str, manifest: Manifest | None, allowed: Allowance) -> None:
    """Raise EngineUnavailable where the engine's shapes would cut rows that others take whole.

    A plan was built for its shapes on purpose: it is too short only for a length that was asked
    for. The graph's own target bounds the manifest, so that only another one can be too short.
    """
    if manifest is None:
        return
    if engine == "tensorrt":
        shapes = manifest.plan.shapes if manifest.plan is not None else []
        wanted = allowed.max_tokens or 0
    else:
        shapes = list(serving_target(engine, manifest).shapes)
        wanted = allowed.max_tokens or manifest.max_tokens
    most = longest([ShapeRange(one.batch, one.sequence) for one in shapes])
    if most is not None and wanted > most:
        raise EngineUnavailable(
            f"it takes rows of {most} tokens, found {wanted} wanted; MAX_SEQUENCE_LENGTH={most} "
            "would let it be chosen"
        )


def _cache_of(manifest: Manifest | None, allowed: Allowance) -> Path | None:
    """A folder of the artifact's own: ONNX Runtime tells compiled engines apart by their graphs'
    names, not by their weights. What nothing describes is compiled at each start."""
    if manifest is None or allowed.cache is None:
        return None
    return allowed.cache / "engines" / manifest.version


def _refuse_misfit(
    directory: Path, manifest: Manifest, allowed: Allowance, gpu: Gpu | None
) -> None:
    plan = manifest.plan
    target = plan.target if plan is not None else manifest.target
    build = f"rerank-export build {directory} --target {target}"
    if not (directory / PLAN_FILE).is_file():
        raise EngineUnavailable(
            f"target {target} needs {PLAN_FILE}, which is not in the artifact; build it: {build}"
        )
    if gpu is None:
        return  # open_engine says what is missing
    misfit = plan_misfit(manifest, gpu, tensorrt_version(), host_code=allowed.host_code)
    if misfit is not None:
        raise EngineUnavailable(f"{PLAN_FILE} does not fit: {misfit}; build it here: {build}")
    if manifest.hardware is not None and manifest.hardware.gpu != gpu.name:
        _log.warning(
            "%s was built on %s and runs on %s: it fits, but may be slower than one built here",
            PLAN_FILE,
            manifest.hardware.gpu,
            gpu.name,
        )
