"""Packed graphs on the CUDA engine: which tokens a call computes.

The buffers are real, in the memory of the CPU, where ONNX Runtime captures nothing.
"""

import numpy as np
import onnxruntime as ort
from onnx import parser

from runtime.engines import EngineSetup
from runtime.shapes import PLACES_INPUT
from tests.runtime.engines.test_ort import OnCpu

# The sum of the mask of each row, times the number of places.
GRAPH = """<ir_version: 10, opset_import: ["" : 20]>
g (int64[batch, sequence] attention_mask, int64[tokens] token_places) => (float[batch, 1] logits)
<int64[1] axis = {1}>
{
    real = ReduceSum <keepdims = 1> (attention_mask, axis)
    count = Shape (token_places)
    product = Mul (real, count)
    logits = Cast <to = 1> (product)
}"""


def made(graph_tokens: int) -> OnCpu:
    graph = parser.parse_model(GRAPH).SerializeToString()
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return OnCpu("onnxruntime-cuda", session, ort, EngineSetup(graph_tokens=graph_tokens))


def places_of(engine: OnCpu, rows: int, length: int) -> float:
    """How many places a call of so many tokens, of which three a row are real, computes."""
    mask = np.zeros((rows, length), np.int64)
    mask[:, :3] = 1
    given = {"attention_mask": mask, PLACES_INPUT: np.flatnonzero(mask)}
    found = engine.run(given)["logits"]
    assert found.shape == (rows, 1)
    return float(found[0, 0]) / 3


def test_a_plain_call_computes_real_tokens_and_a_captured_one_all_of_them() -> None:
    """A captured CUDA graph has one number of tokens."""
    engine = made(graph_tokens=32)
    assert places_of(engine, 2, 8) == 6  # no bucket
    assert [places_of(engine, 2, 16) for _ in range(3)] == [32] * 3
    assert places_of(engine, 4, 16) == 12  # more tokens than are captured
    engine.close()
    assert places_of(made(graph_tokens=0), 2, 16) == 6


def test_an_engine_tries_out_a_packed_graph() -> None:
    made(graph_tokens=32).try_out()
