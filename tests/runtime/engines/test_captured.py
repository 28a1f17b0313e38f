"""Captured CUDA graphs: which calls replay one, how many there can be, and when one is captured.

The buffers are real, in the memory of the CPU, where ONNX Runtime captures nothing.
"""

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
from onnx import parser

from runtime.engines import EngineSetup, gpu_errors
from runtime.engines import ort as engine_module
from runtime.engines.gpu_use import GpuUse
from runtime.profile import load_target_profile
from runtime.shapes import shapes_with_graphs
from tests.runtime.engines.test_ort import OnCpu, captured
from tests.waiting import PATIENCE_S

# Sums of ids and of the components of all images: [rows, 1].
GRAPH = """<ir_version: 10, opset_import: ["" : 20]>
g (int64[batch, sequence] input_ids, float[tiles, 2, 3] image_embeds) => (float[batch, 1] logits)
<int64[1] axis = {1}>
{
    whole = ReduceSum <keepdims = 1> (input_ids, axis)
    words = Cast <to = 1> (whole)
    images = ReduceSum <keepdims = 0> (image_embeds)
    logits = Add (words, images)
}"""
SHAPE = (2, 16)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> GpuUse:
    """Who uses the GPU, this test's engines alone."""
    found = GpuUse()
    monkeypatch.setattr(engine_module, "GPU_USE", found)
    return found


@pytest.fixture
def engine(use: GpuUse) -> Iterator[OnCpu]:
    graph = parser.parse_model(GRAPH).SerializeToString()
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    made = OnCpu("onnxruntime-cuda", session, ort, EngineSetup(graph_tokens=64))
    yield made
    made.close()


def call(engine: OnCpu, tiles: int = 0, word: int = 1) -> list[float]:
    ids, embeds = np.full(SHAPE, word, np.int64), np.ones((tiles, 2, 3), np.float32)
    found: list[float] = engine.run({"input_ids": ids, "image_embeds": embeds})["logits"].tolist()
    return found


def test_texts_without_images_replay_a_graph_of_the_model_that_takes_images(engine: OnCpu) -> None:
    assert [call(engine, word=word) for word in (1, 2)] == [[[16], [16]], [[32], [32]]]
    assert list(captured(engine)) == [SHAPE]
    assert call(engine, tiles=1) == [[22], [22]]
    assert call(engine) == [[16], [16]]


def test_calls_with_images_capture_nothing(engine: OnCpu) -> None:
    assert call(engine, tiles=2) == [[28], [28]]
    assert not captured(engine)


def test_nothing_is_captured_while_others_use_the_gpu(engine: OnCpu, use: GpuUse) -> None:
    with use.shared():
        assert call(engine) == [[16], [16]]
        assert not captured(engine)
    call(engine)
    with use.shared():  # a graph that is there is replayed
        assert call(engine, word=3) == [[48], [48]]
    assert list(captured(engine)) == [SHAPE]


def test_others_wait_while_a_graph_is_captured(engine: OnCpu, use: GpuUse) -> None:
    order: list[str] = []

    def other() -> None:
        with use.shared():
            order.append("another model")

    thread = threading.Thread(target=other)
    run = engine._session.run_with_iobinding

    def capture(*args: object) -> None:
        thread.start()
        thread.join(0.05)  # it would be through by then
        with use.alone() as alone:
            assert not alone
        order.append("captured")
        run(*args)

    engine._session.run_with_iobinding = capture
    call(engine)
    thread.join(PATIENCE_S)
    assert order == ["captured", "another model"]


@pytest.mark.parametrize("text", ["CUDA failure 900", "CUBLAS failure 14: asks the device"])
def test_a_failed_capture_lets_others_go_on(
    engine: OnCpu, use: GpuUse, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(gpu_errors, "GPU_USE", use)
    monkeypatch.setattr(gpu_errors, "open_cuda", lambda: SimpleNamespace(wait=lambda _: None))
    with monkeypatch.context() as broken:
        broken.setattr(engine._session, "run_with_iobinding", fail)
        with pytest.raises(Exception, match=text):  # without a graph, too
            call(engine)
    assert call(engine) == [[16], [16]]
    with use.alone() as alone:
        assert alone


def test_a_larger_call_is_not_padded_beyond_what_batches_waste(engine: OnCpu) -> None:
    setup = EngineSetup(graph_tokens=2048, padding_waste=0.25)
    asked = OnCpu("onnxruntime-cuda", engine._session, ort, setup)
    # 256 tokens cost no more than fewer.
    assert asked.shape_for(9, 5) == (16, 16)
    assert asked.shape_for(33, 8) == (33, 8)
    assert asked.shape_for(33, 32) == (33, 32)
    assert asked.shape_for(48, 32) == (64, 32)
    assert asked.shape_for(4, 97) == (4, 112)


def test_a_graph_with_other_inputs_captures_nothing_and_pads_nothing() -> None:
    """As NVIDIA's embedders, which take the dimensions of each row."""
    text = GRAPH.replace("float[tiles, 2, 3] image_embeds", "int64[batch] dimensions")
    text = text.replace("ReduceSum <keepdims = 0> (image_embeds)", "Cast <to = 1> (dimensions)")
    graph = parser.parse_model(text).SerializeToString()
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    asked = OnCpu("onnxruntime-cuda", session, ort, EngineSetup(graph_tokens=64))
    assert asked.shape_for(2, 9) == (2, 12)


def test_each_thread_captures_its_own(engine: OnCpu) -> None:
    call(engine)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.extend([captured(engine), call(engine)]))
    thread.start()
    thread.join(PATIENCE_S)
    # Before its own call the other thread had none.
    assert found[1] == [[16], [16]]
    assert captured(engine)[SHAPE] is not found[0][SHAPE]  # type: ignore[index]


def test_the_graphs_that_there_can_be_are_few(engine: OnCpu) -> None:
    target = load_target_profile("cuda-fp16-graphs")
    setup = EngineSetup(
        graph_tokens=target.graph_tokens,
        max_rows=target.max_rows,
        padding_waste=target.padding_waste,
    )
    asked = OnCpu("onnxruntime-cuda", engine._session, ort, setup)._graphs
    sizes = range(1, target.graph_tokens + 1)
    found = {
        shape
        for rows in range(1, target.max_rows + 1)
        for tokens in sizes
        if (shape := asked.shape_for(rows, tokens)) is not None
    }
    shapes = shapes_with_graphs(target.graph_tokens, target.max_rows)
    assert set(shapes) == found
    assert len(shapes) == len(found) == 106
    assert shapes[0][0] * shapes[0][1] == target.graph_tokens
