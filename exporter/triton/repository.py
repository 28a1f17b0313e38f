"""Writing a Triton model repository from an artifact.

The layout and the configuration's words are Triton's (docs: model_repository.md,
model_configuration.md; message ModelConfig). Three platforms: `python` runs the artifact through
the code that proved it; `onnxruntime` and `tensorrt` hand the graph or plan to Triton's own
backends.
"""

from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Literal

import onnx

from exporter.errors import OutputRefused, RepositoryRefused
from exporter.workspace import link_files
from runtime.artifact import find_directory
from runtime.engines.triton import MODEL_NAME
from runtime.errors import ManifestError
from runtime.manifest import Manifest, check_files, read_manifest
from runtime.outputs import atomic_directory, file_place, foreign_file, refuse_inputs, write_atomic
from runtime.shapes import PLACES_INPUT

Platform = Literal["python", "onnxruntime", "tensorrt"]

CONFIG_FILE = "config.pbtxt"
START_FILE = "start.sh"
# The first line of the configuration: the model may be replaced.
_WRITTEN = "# Written by rerank-export triton, which replaces the whole directory.\n"
MAX_BATCH_SIZE = 64
# As the NIM: how long Triton waits for requests to join a batch.
_QUEUE_DELAY_US = 100
_GRAPH_FILES: dict[Platform, tuple[str, str]] = {
    "onnxruntime": ("onnxruntime_onnx", "model.onnx"),
    "tensorrt": ("tensorrt_plan", "model.plan"),
}
_TYPES = {
    "INT64": "TYPE_INT64",
    "INT32": "TYPE_INT32",
    "FLOAT": "TYPE_FP32",
    "FLOAT16": "TYPE_FP16",
}


def write_repository(artifact: Path, out: Path, platform: Platform = "python") -> Path:
    """Write the model into the repository `out` and return the model's directory.

    Files of the artifact are linked where the file system can. Raises RepositoryRefused for an
    artifact that lacks what the platform needs, OutputRefused for files that this command did not
    write, and what reading and checking the manifest raises.
    """
    artifact = find_directory(artifact)
    manifest = read_manifest(artifact)
    check_files(artifact, manifest)
    if manifest.kind != "rank":
        raise RepositoryRefused("found an embedder, wanted a reranker; rerank-serve serves it")
    if manifest.vision is not None:
        raise RepositoryRefused(
            "found a reranker that takes images, wanted one of texts alone; rerank-serve serves it"
        )
    model, start = out / MODEL_NAME, out / START_FILE
    refuse_inputs(model, artifact)
    script = resources.files("exporter.triton").joinpath(START_FILE).read_bytes()
    _refuse_other_start(start, script)
    config = (
        _python_config(manifest)
        if platform == "python"
        else _graph_config(artifact, manifest, platform)
    )
    with atomic_directory(model, "rerank-triton", _refuse_foreign) as new:
        version = new / "1"
        if platform == "python":
            link_files(artifact, version / "artifact", [*manifest.files, "manifest.json"])
            code = resources.files("exporter.triton").joinpath("model.py").read_bytes()
            (version / "model.py").write_bytes(code)
        else:
            stem = _GRAPH_FILES[platform][1]
            link_files(
                artifact, version, [name for name in manifest.files if name.startswith(stem)]
            )
        (new / CONFIG_FILE).write_text(_WRITTEN + config)
    write_atomic(start, script)
    start.chmod(0o755)
    return model


def _refuse_foreign(model: Path) -> None:
    """Raise OutputRefused unless `model` is absent, or has only files that this command wrote."""
    if not model.exists():
        return
    names = {path.name for path in model.iterdir()} if model.is_dir() else set()
    if names != {"1", CONFIG_FILE} or not _begins(model / CONFIG_FILE, _WRITTEN.encode()):
        raise OutputRefused(f"{model} is not a model that this command wrote; move it away")
    if foreign := foreign_file(model, _written_files(model)):
        raise OutputRefused(
            f"{model} holds {foreign}, which this command did not write; move it away"
        )


def _written_files(model: Path) -> set[str]:
    """What this command wrote into the model's directory, and Python beside model.py."""
    version = model / "1"
    found = [version / "model.py", *version.glob("__pycache__/model.*.pyc")]
    for _, stem in _GRAPH_FILES.values():
        found += version.glob(f"{stem}*")
    with suppress(ManifestError):
        names = ["manifest.json", *read_manifest(version / "artifact").files]
        found += [version / "artifact" / name for name in names]
    return {CONFIG_FILE, *(path.relative_to(model).as_posix() for path in found)}


def _refuse_other_start(start: Path, script: bytes) -> None:
    """That of another version begins with the same two lines."""
    if start.exists() and not _begins(start, b"".join(script.splitlines(keepends=True)[:2])):
        raise OutputRefused(f"{start} was not written by this command; move it away")


def _begins(file: Path, head: bytes) -> bool:
    with file_place(file).open("rb") as content:
        return content.read(len(head)) == head


def _python_config(manifest: Manifest) -> str:
    texts = [_tensor(name, "TYPE_STRING", 1, optional=True) for name in ("query", "passage")]
    # The places of packed graphs follow from the rows of a call, which are not those of a request.
    ids = [
        _tensor(name, "TYPE_INT64", -1, optional=True)
        for name in manifest.inputs
        if name != PLACES_INPUT
    ]
    outputs = [
        _tensor("index", "TYPE_INT32", 1),
        _tensor("logit", "TYPE_FP32", 1),
        _tensor("token_count", "TYPE_INT32", 1),
        # Returned for token ids instead of the others; last, as model.py expects.
        _tensor(manifest.outputs[0], "TYPE_FP32", 1),
    ]
    # One instance, which uses every core or the GPU; the artifact's engine chooses the device.
    instances = "instance_group [ { count: 1 kind: KIND_CPU } ]"
    return _config('backend: "python"', [*texts, *ids], outputs, instances)


def _graph_config(artifact: Path, manifest: Manifest, platform: Platform) -> str:
    name, file = _GRAPH_FILES[platform]
    if not (artifact / file).is_file():
        raise RepositoryRefused(f"platform {platform} needs {file}, which the artifact lacks")
    if PLACES_INPUT in manifest.inputs:
        raise RepositoryRefused(
            f"found a packed graph (target {manifest.target}), whose {PLACES_INPUT} has no axis of "
            "rows, wanted one that Triton can batch; choose --platform python, or export for "
            "another target"
        )
    if platform == "tensorrt":
        inputs = [_tensor(one, "TYPE_INT64", -1) for one in manifest.inputs]
        outputs = [_tensor(one, "TYPE_FP32", 1) for one in manifest.outputs]
    else:
        graph = onnx.load(artifact / file, load_external_data=False).graph
        inputs = [_tensor(one.name, _type(one), -1) for one in graph.input]
        outputs = [_tensor(one.name, _type(one), 1) for one in graph.output]
    return _config(f'platform: "{name}"', inputs, outputs)


def _type(value: onnx.ValueInfoProto) -> str:
    kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    if kind not in _TYPES:
        raise RepositoryRefused(f"the graph's {value.name} is {kind}, wanted {', '.join(_TYPES)}")
    return _TYPES[kind]


def _tensor(name: str, kind: str, size: int, *, optional: bool = False) -> str:
    """An input or output with one axis beside the batch's, of this size; -1 for a dynamic one."""
    end = " optional: true" if optional else ""
    return f'  {{ name: "{name}" data_type: {kind} dims: [ {size} ]{end} }}'


def _config(runs: str, inputs: list[str], outputs: list[str], *more: str) -> str:
    lines = [
        f'name: "{MODEL_NAME}"',
        runs,
        f"max_batch_size: {MAX_BATCH_SIZE}",
        f"dynamic_batching {{ max_queue_delay_microseconds: {_QUEUE_DELAY_US} }}",
        *more,
        "input [",
        ",\n".join(inputs),
        "]",
        "output [",
        ",\n".join(outputs),
        "]",
    ]
    return "\n".join(lines) + "\n"
