"""OpenVINO's engines on a real artifact: the precision is the one that was asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from runtime.engines import AnyShape, EngineSetup, open_engine
from runtime.engines.openvino import OpenVinoEngine
from runtime.errors import EngineError, EngineUnavailable
from runtime.opening import open_ranker
from runtime.requests import RankRequest

PASSAGES = ["Short.", "A passage that is a little longer than the other one.", "Third"]
HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def logits(artifact: Path, engine: str) -> np.ndarray:
    ranker = open_ranker(artifact, engine=engine)
    try:
        return ranker.rank(RankRequest("a question", PASSAGES)).logits
    finally:
        ranker.close()


def test_fp32_is_fp32(rank_artifact: Path) -> None:
    wanted = logits(rank_artifact, "onnxruntime-cpu")
    assert np.abs(logits(rank_artifact, "openvino-fp32") - wanted).max() < 1e-4


def test_bf16_computes_or_says_that_it_cannot(rank_artifact: Path) -> None:
    if not HAS_BF16:
        with pytest.raises(EngineUnavailable, match="needs a CPU with bf16"):
            open_engine("openvino-bf16", rank_artifact)
        return
    wanted = logits(rank_artifact, "onnxruntime-cpu")
    error = np.abs(logits(rank_artifact, "openvino-bf16") - wanted).max()
    assert 1e-6 < error < 0.2 * wanted.std() + 0.05


def test_a_cpu_without_bf16_is_named(rank_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OldCore(openvino.Core):
        def get_property(self, *_: object) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino, "Core", OldCore)
    with pytest.raises(EngineUnavailable, match="this one has FP32, INT8"):
        open_engine("openvino-bf16", rank_artifact)


def test_a_broken_graph_is_an_engine_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=r"openvino-fp32 cannot open model\.onnx"):
        open_engine("openvino-fp32", tmp_path)


def test_a_wrong_input_is_an_engine_error(rank_artifact: Path) -> None:
    engine = open_engine("openvino-fp32", rank_artifact)
    with pytest.raises(EngineError, match="openvino-fp32 failed"):
        engine.run({"input_ids": np.zeros((1, 2, 3), np.int64)})
    engine.close()


@pytest.mark.parametrize("max_tokens", [512, 500])
def test_rows_come_in_few_lengths(rank_artifact: Path, max_tokens: int) -> None:
    """OpenVINO keeps kernels for every shape that it ever saw."""
    setup = EngineSetup(max_tokens=max_tokens, padding_waste=0.1)
    engine = open_engine("openvino-fp32", rank_artifact, setup)
    computed = {n: engine.shape_for(3, n) for n in range(1, max_tokens + 1)}
    longer = engine.shape_for(3, max_tokens + 7)
    engine.close()
    assert longer == (3, max_tokens + 7)
    assert len(set(computed.values())) < 90
    for tokens, (rows, length) in computed.items():
        assert rows == 3
        assert tokens <= length <= max_tokens
        assert length - tokens <= 0.1 * length


def test_rows_that_must_not_be_padded_are_not(
    rank_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What OpenVINO keeps is bounded then."""
    args: list[dict[str, Any]] = []
    compile_model = openvino.Core.compile_model

    def compiling(self: Any, path: str, device: str, config: dict[str, Any]) -> Any:
        args.append(config)
        return compile_model(self, path, device, config)

    monkeypatch.setattr(openvino.Core, "compile_model", compiling)
    engine = open_engine("openvino-fp32", rank_artifact, EngineSetup(max_tokens=512))
    assert [engine.shape_for(2, n) for n in range(1, 520)] == [(2, n) for n in range(1, 520)]
    assert {config["CPU_RUNTIME_CACHE_CAPACITY"] for config in args} == {256}
    engine.close()


def test_padding_to_a_shape_changes_no_score(rank_artifact: Path) -> None:
    padded = logits(rank_artifact, "openvino-fp32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpenVinoEngine, "shape_for", AnyShape.shape_for)
        plain = logits(rank_artifact, "openvino-fp32")
    assert np.abs(padded - plain).max() < 1e-5
