"""ONNX Runtime's GPU engines, as far as the CPU can show: options, bound buffers, refusals.

The binding runs for real, with its buffers in the CPU's memory.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from runtime.engines import EngineSetup, open_engine
from runtime.engines import ort as engine_module
from runtime.engines.ort import OrtGpuEngine
from runtime.engines.ort_options import provider_options
from runtime.errors import DeviceLost, EngineError, EngineUnavailable, OutOfMemory
from runtime.gpu import Gpu
from runtime.telemetry import disable_telemetry
from tests.runtime.engines.test_ort_tensorrt import SHAPES

PROVIDERS = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


ROWS = {
    "input_ids": np.asarray([[5, 6, 7], [8, 9, 0]], np.int64),
    "attention_mask": np.asarray([[1, 1, 1], [1, 1, 0]], np.int64),
}


class OnCpu(OrtGpuEngine):
    """The GPU engine over a session of the CPU provider."""

    _memory = "cpu"


def captured(engine: OrtGpuEngine) -> dict[Any, Any]:
    return engine._graphs._of_thread.captured


def on_cpu(directory: Path, setup: EngineSetup) -> OnCpu:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(
        str(directory / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    return OnCpu("onnxruntime-cuda", session, ort, setup)


def test_cuda_keeps_float32_as_it_is_and_grows_by_what_is_asked() -> None:
    ((provider, options),) = provider_options("onnxruntime-cuda", EngineSetup())
    assert provider == "CUDAExecutionProvider"
    assert options == {
        "device_id": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
        "enable_skip_layer_norm_strict_mode": "1",
        "enable_cuda_graph": "0",
    }


def test_cuda_graphs_and_the_memory_bound_are_passed_on() -> None:
    setup = EngineSetup(graph_tokens=1024, memory_bytes=4 << 30)
    ((_, options),) = provider_options("onnxruntime-cuda", setup)
    assert options["enable_cuda_graph"] == "1"
    assert options["gpu_mem_limit"] == str(4 << 30)


@pytest.mark.parametrize(("precision", "message"), [("fp32", False), ("fp16", True)])
def test_types_that_are_lost_are_logged(
    monkeypatch: pytest.MonkeyPatch,
    bare_directory: Path,
    caplog: pytest.LogCaptureFixture,
    precision: str,
    message: bool,
) -> None:
    session = Session(["TensorrtExecutionProvider", "CUDAExecutionProvider"])
    opened(monkeypatch, bare_directory, "onnxruntime-tensorrt", session, precision=precision)
    assert ("lets TensorRT choose the types" in caplog.text) == message


def test_compiled_engines_are_kept_by_version_and_memory(
    monkeypatch: pytest.MonkeyPatch, bare_directory: Path, tmp_path: Path
) -> None:
    session = Session(["TensorrtExecutionProvider", "CUDAExecutionProvider"])
    cache, name = tmp_path / "cache", "onnxruntime-tensorrt"
    opened(monkeypatch, bare_directory, name, session, cache=cache)
    opened(monkeypatch, bare_directory, name, session, cache=cache, memory_bytes=5)
    own = f"onnxruntime-{ort.__version__}"
    assert sorted(folder.name for folder in cache.iterdir()) == [own, f"{own}-5"]


@pytest.mark.parametrize("before", [None, "1"])
def test_tensorrt_compiles_float32_whole_and_leaves_the_environment_as_it_was(
    monkeypatch: pytest.MonkeyPatch, bare_directory: Path, before: str | None
) -> None:
    name = "NVIDIA_TF32_OVERRIDE"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    session = Session(["TensorrtExecutionProvider", "CUDAExecutionProvider"])
    opened(monkeypatch, bare_directory, "onnxruntime-tensorrt", session)
    assert session.tf32 == "0"
    assert os.environ.get(name) == before
    session = Session(["CUDAExecutionProvider", "CPUExecutionProvider"])
    opened(monkeypatch, bare_directory, "onnxruntime-cuda", session)
    assert session.tf32 == before


def test_a_cache_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, bare_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    session = Session(["TensorrtExecutionProvider", "CUDAExecutionProvider"])
    with pytest.raises(EngineUnavailable, match="NIM_CACHE_PATH that user id"):
        opened(
            monkeypatch,
            bare_directory,
            "onnxruntime-tensorrt",
            session,
            cache=tmp_path / "file" / "cache",
        )


def test_bound_buffers_give_what_a_plain_run_gives(bare_directory: Path) -> None:
    plain = open_engine("onnxruntime-cpu", bare_directory)
    bound = on_cpu(bare_directory, EngineSetup())
    assert bound.run(ROWS)["logits"].tolist() == plain.run(ROWS)["logits"].tolist()
    assert bound.shape_for(2, 3) == (2, 4)  # the kernels of masked attention
    assert (bound.device, bound.shapes) == ("cuda:0", ())
    bound.close()


def test_rows_are_padded_to_the_kernels_of_masked_attention_but_not_past_the_limit(
    bare_directory: Path,
) -> None:
    """With other lengths ONNX Runtime stores all scores: 8.6 GB for 4 rows of 8190 tokens."""
    engine = on_cpu(bare_directory, EngineSetup(graph_tokens=256, max_tokens=250))
    found = [engine.shape_for(40, tokens) for tokens in (1, 63, 64, 247, 249, 250)]
    assert found == [(40, 4), (40, 64), (40, 64), (40, 248), (40, 249), (40, 250)]
    # A bucket of 256 tokens would read positions that the model does not have.
    assert engine.shape_for(1, 250) == (1, 250)


def test_small_calls_go_through_one_set_of_buffers_a_bucket(bare_directory: Path) -> None:
    engine = on_cpu(bare_directory, EngineSetup(graph_tokens=64, max_rows=8))
    assert engine.shape_for(3, 10) == (4, 16)
    assert engine.shape_for(3, 17) == (3, 20)
    ids = np.arange(64, dtype=np.int64).reshape(4, 16)
    for step in range(3):
        given = {"input_ids": ids + step, "attention_mask": np.ones((4, 16), np.int64)}
        wanted = (ids + step).sum(1, keepdims=True) / 100
        assert np.allclose(engine.run(given)["logits"], wanted)
    assert list(captured(engine)) == [(4, 16)]
    assert engine.run(ROWS)["logits"].shape == (2, 1)
    assert list(captured(engine)) == [(4, 16)]


def test_each_captured_graph_has_a_number_of_its_own(bare_directory: Path) -> None:
    engine = on_cpu(bare_directory, EngineSetup(graph_tokens=64, max_rows=8))
    for rows in (1, 2, 4):
        shape = (rows, 16)
        engine.run(
            {"input_ids": np.ones(shape, np.int64), "attention_mask": np.ones(shape, np.int64)}
        )
    numbers = [
        one.options.get_run_config_entry("gpu_graph_id") for one in captured(engine).values()
    ]
    assert numbers == ["1", "2", "3"]


def ones(rows: int) -> dict[str, np.ndarray]:
    return {name: np.ones((rows, 16), np.int64) for name in ("input_ids", "attention_mask")}


def fail_captures(engine: OnCpu, text: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make captures fail with this text. Returns the graphs of the calls to come: "-1" for none."""
    run, graphs = engine._session.run_with_iobinding, []

    def fail(binding: object, options: Any) -> None:
        graphs.append(options.get_run_config_entry("gpu_graph_id"))
        if graphs[-1] != "-1":
            raise RuntimeError(text)
        run(binding, options)

    monkeypatch.setattr(engine._session, "run_with_iobinding", fail)
    return graphs


def test_a_call_whose_capture_fails_is_computed_and_its_shape_captured_no_more(
    bare_directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = on_cpu(bare_directory, EngineSetup(graph_tokens=64, max_rows=8))
    with monkeypatch.context() as broken:
        graphs = fail_captures(engine, "CUDA failure 901: capture invalidated", broken)
        for _ in range(2):
            assert engine.run(ones(1))["logits"] == pytest.approx(0.16)
        assert graphs == ["1", "-1", "-1"]
    assert captured(engine) == {}
    assert "calls of 1 × 16 tokens run without a CUDA graph" in caplog.text
    assert engine.shape_for(1, 13) == (1, 16)  # of the kernels of masked attention
    assert engine.shape_for(1, 9) == (1, 12)
    engine.run(ones(2))
    (kept,) = captured(engine).values()
    # What ONNX Runtime remembers of the first one is never replayed.
    assert kept.options.get_run_config_entry("gpu_graph_id") == "2"


def test_a_capture_in_which_the_device_is_lost_is_not_tried_without_a_graph(
    bare_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = on_cpu(bare_directory, EngineSetup(graph_tokens=64, max_rows=8))
    graphs = fail_captures(engine, "CUDA failure 700: an illegal memory access", monkeypatch)
    with pytest.raises(DeviceLost):
        engine.run(ones(1))
    assert graphs == ["1"]


class Session:
    """What the engine asks of a session, with chosen providers and what they are to compute."""

    def __init__(self, providers: Sequence[str], **elsewhere: Sequence[str]) -> None:
        self.providers, self.elsewhere = providers, elsewhere
        self.tf32: str | None = "never opened"
        self.first_call = ""

    def get_providers(self) -> Sequence[str]:
        return self.providers

    def get_provider_graph_assignment_info(self) -> list[Any]:
        def part(ep_name: str, operators: Sequence[str]) -> Any:
            nodes = [SimpleNamespace(op_type=op) for op in operators]
            return SimpleNamespace(ep_name=ep_name, get_nodes=lambda: nodes)

        own = part(self.providers[0], ["Attention", "MatMul"])
        return [own, *(part(*given) for given in self.elsewhere.items())]

    def get_inputs(self) -> list[Any]:
        return []

    def get_outputs(self) -> list[Any]:
        return []

    def io_binding(self) -> Any:
        return SimpleNamespace(copy_outputs_to_cpu=list)

    def run_with_iobinding(self, *_: object) -> None:
        """The row that is computed when the engine opens."""
        if self.first_call:
            raise RuntimeError(self.first_call)


def opened(
    monkeypatch: pytest.MonkeyPatch,
    directory: Path,
    name: str,
    session: Session,
    **setup: Any,
) -> Any:
    """Open engine `name` where ONNX Runtime is a GPU build that makes `session`."""
    gpu = Gpu("NVIDIA H100", "9.0", "x86_64", "580")
    monkeypatch.setattr("runtime.engines.find_gpu", lambda: gpu)
    monkeypatch.setattr(
        ort,
        "get_available_providers",
        lambda: PROVIDERS,
    )
    made: dict[str, Any] = {}

    def session_for(path: str, **options: Any) -> Session:
        made.update(options)
        session.tf32 = os.environ.get("NVIDIA_TF32_OVERRIDE")
        return session

    monkeypatch.setattr(ort, "InferenceSession", session_for)
    engine = open_engine(name, directory, EngineSetup(shapes=SHAPES, **setup))
    assert made["enable_fallback"] == 0
    return engine


def test_a_provider_that_was_left_out_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, bare_directory: Path
) -> None:
    with pytest.raises(EngineUnavailable, match=r"could not start CUDAExec.*libraries of CUDA 13"):
        opened(monkeypatch, bare_directory, "onnxruntime-cuda", Session(["CPUExecutionProvider"]))


def test_tensorrt_that_is_missing_names_its_libraries(
    monkeypatch: pytest.MonkeyPatch, bare_directory: Path
) -> None:
    session = Session(["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(EngineUnavailable, match=r"TensorrtExec.*libnvinfer\.so\.10"):
        opened(monkeypatch, bare_directory, "onnxruntime-tensorrt", session)


def test_tensorrt_without_its_libraries_is_unavailable_so_that_auto_goes_on(
    monkeypatch: pytest.MonkeyPatch, bare_directory: Path
) -> None:
    """As onnxruntime-gpu 1.31.1 tells it on a machine without TensorRT."""

    def refuse(path: str, **options: Any) -> Session:
        raise RuntimeError("Please install TensorRT libraries as mentioned in the requirements")

    gpu = Gpu("NVIDIA H100", "9.0", "x86_64", "580")
    monkeypatch.setattr("runtime.engines.find_gpu", lambda: gpu)
    monkeypatch.setattr(ort, "get_available_providers", lambda: PROVIDERS)
    monkeypatch.setattr(ort, "InferenceSession", refuse)
    with pytest.raises(
        EngineUnavailable, match=r"could not load TensorRT; wanted libnvinfer\.so\.10"
    ):
        open_engine("onnxruntime-tensorrt", bare_directory, EngineSetup(shapes=SHAPES))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=0",
        "CUDA failure 209: no kernel image is available for execution on the device ; GPU=0",
        "CUDA_PATH is set but CUDA wasn't able to be loaded.",
    ],
)
def test_a_gpu_that_this_build_can_never_use_is_unavailable_so_that_auto_goes_on(
    monkeypatch: pytest.MonkeyPatch, bare_directory: Path, text: str
) -> None:
    def refuse(path: str, **options: Any) -> Session:
        raise RuntimeError(text)

    gpu = Gpu("Tesla P4", "6.1", "x86_64", "470")
    monkeypatch.setattr("runtime.engines.find_gpu", lambda: gpu)
    monkeypatch.setattr(ort, "get_available_providers", lambda: PROVIDERS)
    monkeypatch.setattr(ort, "InferenceSession", refuse)
    with pytest.raises(EngineUnavailable, match="cannot use this GPU"):
        open_engine("onnxruntime-cuda", bare_directory, EngineSetup(shapes=SHAPES))


def test_work_that_was_left_to_the_cpu_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, bare_directory: Path
) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    session = Session(providers, CPUExecutionProvider=["Attention", "Attention", "Shape"])
    with pytest.raises(
        EngineUnavailable, match=r"does not support Attention × 2 \(CPUExecutionProvider\)"
    ):
        opened(monkeypatch, bare_directory, "onnxruntime-cuda", session)
    session = Session(providers, CPUExecutionProvider=["Shape", "Range"])
    engine = opened(monkeypatch, bare_directory, "onnxruntime-cuda", session)
    assert isinstance(engine, OrtGpuEngine)


def test_work_that_tensorrt_left_to_cuda_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
    bare_directory: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    name, providers = "onnxruntime-tensorrt", PROVIDERS[:2]
    session = Session(providers, CUDAExecutionProvider=["MatMul", "Cast"])
    with pytest.raises(EngineUnavailable, match=r"does not support MatMul × 1 \(CUDA.*cuda-fp16"):
        opened(monkeypatch, bare_directory, name, session)
    given = {"CUDAExecutionProvider": ["Cast"], "CPUExecutionProvider": ["Shape"]}
    opened(monkeypatch, bare_directory, name, Session(providers, **given))
    assert "Cast × 1 (CUDAExecutionProvider), Shape × 1 (CPUExecutionProvider)" in caplog.text


def test_the_real_assignment_is_read(bare_directory: Path) -> None:
    engine = on_cpu(bare_directory, EngineSetup())
    # The graph's own nodes are light; with a heavy one they would be refused.
    own = "CUDAExecutionProvider"
    engine_module._refuse_other_providers("onnxruntime-cuda", own, engine._session)
    parts = engine._session.get_provider_graph_assignment_info()
    assert {part.ep_name for part in parts} == {"CPUExecutionProvider"}
    assert "ReduceSum" in {node.op_type for part in parts for node in part.get_nodes()}


FAILURES = pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA failure 2: out of memory", OutOfMemory),
        ("CUDA failure 700: an illegal memory access was encountered", DeviceLost),
        ("bad input", EngineError),
    ],
)


@FAILURES
def test_a_failure_to_open_is_understood(
    bare_directory: Path, monkeypatch: pytest.MonkeyPatch, text: str, kind: type[Exception]
) -> None:
    def fail(*_: object, **options: object) -> None:
        raise RuntimeError(text)

    gpu = Gpu("NVIDIA H100", "9.0", "x86_64", "580")
    monkeypatch.setattr("runtime.engines.find_gpu", lambda: gpu)
    monkeypatch.setattr(ort, "get_available_providers", lambda: PROVIDERS)
    monkeypatch.setattr(ort, "InferenceSession", fail)
    with pytest.raises(kind) as caught:
        open_engine("onnxruntime-cuda", bare_directory, EngineSetup(shapes=SHAPES))
    if kind is EngineError:
        assert str(caught.value) == "onnxruntime-cuda cannot open model.onnx: bad input"


@FAILURES
def test_a_failed_call_is_understood(
    bare_directory: Path, monkeypatch: pytest.MonkeyPatch, text: str, kind: type[Exception]
) -> None:
    engine = on_cpu(bare_directory, EngineSetup())

    def fail(*_: object) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(engine._session, "run_with_iobinding", fail)
    with pytest.raises(kind):
        engine.run(ROWS)


def test_a_server_s_environment_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, bare_directory: Path
) -> None:
    """It has set all that is read there before its first thread: a reload changes nothing."""
    disable_telemetry()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    changes: list[object] = []
    monkeypatch.setattr(os, "putenv", lambda *change: changes.append(change))
    monkeypatch.setattr(os, "unsetenv", lambda *change: changes.append(change))
    session = Session(["TensorrtExecutionProvider", "CUDAExecutionProvider"])
    opened(monkeypatch, bare_directory, "onnxruntime-tensorrt", session)
    assert session.tf32 == "0"
    assert changes == []


def test_what_the_loader_prints_is_reported_and_stdout_stays(
    monkeypatch: pytest.MonkeyPatch, bare_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime prints the libraries of CUDA that it cannot load."""

    def fail() -> None:
        print("Failed to load libcublas.so.13")  # noqa: T201

    monkeypatch.setattr(ort, "print", None, raising=False)  # what is set there ends with the test
    monkeypatch.setattr(ort, "preload_dlls", FunctionType(fail.__code__, vars(ort)))
    with pytest.raises(EngineUnavailable, match=r"it said: Failed to load libcublas\.so\.13"):
        opened(monkeypatch, bare_directory, "onnxruntime-cuda", Session(["CPUExecutionProvider"]))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["onnxruntime-cpu", "onnxruntime-cuda"])
def test_threads_without_work_go_to_sleep(
    monkeypatch: pytest.MonkeyPatch, bare_directory: Path, name: str
) -> None:
    """ONNX Runtime's own choice spins for longer than a small call takes."""
    made: list[ort.SessionOptions] = []

    class Noting(Session):
        def __init__(self, _: str, sess_options: Any, providers: Any, **__: Any) -> None:
            super().__init__([provider for provider, _ in providers])
            made.append(sess_options)

    monkeypatch.setattr("runtime.engines.find_gpu", lambda: Gpu("H100", "9.0", "x86_64", "580"))
    monkeypatch.setattr(ort, "get_available_providers", lambda: PROVIDERS)
    monkeypatch.setattr(ort, "InferenceSession", Noting)
    engine = open_engine(name, bare_directory)
    engine.close()
    asked = "session.intra_op.spin_duration_us"
    assert made
    assert all(int(one.get_session_config_entry(asked)) <= 1000 for one in made)
