"""ONNX Runtime on a GPU: what is known when the engine opens, before a caller's first call."""

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from runtime.engines import EngineSetup, open_engine
from runtime.errors import EngineUnavailable
from runtime.gpu import Gpu
from tests.runtime.engines.test_ort import PROVIDERS, Session, opened


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # As onnxruntime-gpu 1.31.1 says it.
        (
            "running ReduceMax node. Status Message: cuDNN is unavailable for CUDA Execution "
            "Provider: dlopen failed for libcudnn.so",
            "operators that need cuDNN 9.*cuda-fp16",
        ),
        (
            "running Cast node. Status Message: CUDA error cudaErrorNoKernelImageForDevice:no "
            "kernel image is available for execution on the device",
            "cannot use this GPU.*that this onnxruntime has code for",
        ),
    ],
)
def test_what_the_first_call_misses_is_known_when_the_engine_opens(
    monkeypatch: pytest.MonkeyPatch, bare_directory: Path, text: str, message: str
) -> None:
    session = Session(["CUDAExecutionProvider", "CPUExecutionProvider"])
    session.first_call = text
    with pytest.raises(EngineUnavailable, match=message):
        opened(monkeypatch, bare_directory, "onnxruntime-cuda", session)


def test_a_graph_that_cannot_be_captured_is_computed_without(
    monkeypatch: pytest.MonkeyPatch, bare_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def session_for(path: str, providers: Any, **_: Any) -> Session:
        asked.append(providers[0][1]["enable_cuda_graph"])
        if asked[-1] == "1":
            raise RuntimeError(
                "This session cannot use the graph capture feature as requested by the user as all "
                "compute graph nodes have not been partitioned to the CUDAExecutionProvider"
            )
        return Session(["CUDAExecutionProvider"])

    monkeypatch.setattr("runtime.engines.find_gpu", lambda: Gpu("H100", "9.0", "x86_64", "580"))
    monkeypatch.setattr(ort, "get_available_providers", lambda: PROVIDERS)
    monkeypatch.setattr(ort, "InferenceSession", session_for)
    engine = open_engine("onnxruntime-cuda", bare_directory, EngineSetup(graph_tokens=4096))
    assert asked == ["1", "0"]
    assert "no CUDA graphs, small calls take longer" in caplog.text
    assert engine.shape_for(1, 16) == (1, 16)
    assert engine.shape_for(3, 10) == (3, 12)  # no bucket
