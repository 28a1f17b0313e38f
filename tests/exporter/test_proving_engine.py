"""Whether an engine is here is asked before any work."""

from typing import Any

import onnx
import onnxruntime as ort
import pytest

from exporter.proving_engine import require_engine
from runtime.errors import EngineUnavailable
from runtime.gpu import Gpu
from tests.runtime.engines.test_ort import PROVIDERS, Session


def test_every_gpu_engine_is_opened_for_the_inputs_and_shapes_that_it_will_compile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TensorRT's provider takes no graph without a range of shapes."""
    made: list[tuple[list[str], dict[str, str]]] = []

    def session_for(path: str, providers: Any, **_: Any) -> Session:
        inputs = [value.name for value in onnx.load(path).graph.input]
        made.append((inputs, providers[0][1]))
        return Session([provider for provider, _ in providers])

    monkeypatch.setattr("runtime.engines.find_gpu", lambda: Gpu("H100", "9.0", "x86_64", "580"))
    monkeypatch.setattr(ort, "get_available_providers", lambda: PROVIDERS)
    monkeypatch.setattr(ort, "InferenceSession", session_for)
    require_engine("onnxruntime-cuda")
    require_engine("onnxruntime-tensorrt")
    assert [inputs for inputs, _ in made] == [["input_ids", "attention_mask"]] * 2
    assert made[1][1]["trt_profile_max_shapes"] == "input_ids:64x512,attention_mask:64x512"


def test_the_graph_is_one_that_engines_compute() -> None:
    require_engine("onnxruntime-cpu")
    require_engine("openvino-fp32")


def test_missing_hardware_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.engines.find_gpu", lambda: None)
    with pytest.raises(EngineUnavailable, match="needs an NVIDIA GPU"):
        require_engine("onnxruntime-tensorrt")
