"""`make check-cuda` without its library: what is counted, expected and replayed."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from benchmarks.texts import mixed_lengths
from checks.cuda import expected as rules
from checks.cuda.expected import differing, load, misopened
from checks.cuda.failing import FAILURES
from checks.cuda.families import FAMILIES, OPT_IN, PLAIN, REPLAYED, TARGETS
from checks.cuda.padding import mixed_rows, of_target
from checks.cuda.probe import Facts
from checks.cuda.replay import in_float32, replay, session_of
from checks.cuda.trace import Counts, count
from checks.cuda.traffic import of_a_layer
from runtime.profile import load_target_profile

LINES = """
copy pageable->device 792
copy pinned->device 64
launch _ZN11onnxruntime4cuda11RangeKernelIlEEvT_S2_lPS2_ grid=1,1,1 block=256 shared=0
launch _ZN11onnxruntime5flash16flash_fwd_kernelI6half grid=1,1,1 block=256 shared=0
product GemmEx m=64 n=99 k=64 count=1 a=2 b=2 c=2 in=68
launch _ZN11onnxruntime5flash16flash_fwd_kernelI6half grid=1,1,1 block=256 shared=0
launch _Z29attention_kernel_batched_implI15AttentionKernel grid=1,1,1 block=256 shared=0
launch _ZN11onnxruntime5flash16flash_fwd_kernelINS0_6traitsILi32ES4_EEEELb1ELb0E grid=1,1,1
take device 4096
cudnn cudnnCreate
illegal cudaMalloc
frozen pinned->device 64
unanswered cublasGemmBatchedEx
copy device->device 12
graph begin
graph end
graph launch
sync stream
copy device->pageable 12 waiting
"""


def test_a_trace_is_counted() -> None:
    assert count(LINES.split("\n")[1:-1]) == Counts(
        kernels=5,
        products=1,
        to_device=2,
        to_host=1,
        waits=1,
        taken=1,
        cudnn=1,
        captured=1,
        replayed=1,
        a_layer=2,
        attention={"flash": 2, "memory-efficient": 1, "causal flash": 1},
        illegal=["cudaMalloc"],
        frozen=["pinned->device 64"],
        unanswered=["cublasGemmBatchedEx"],
    )


def test_every_family_and_failure_is_expected() -> None:
    wanted = load()
    text_graphs = {name for name in wanted.graphs if not name.endswith(" tower")}
    assert text_graphs == set(FAMILIES)
    assert wanted.calls.keys() == FAILURES.keys()
    known = {f"{family}-{target}" for family in FAMILIES for target in TARGETS}
    assert REPLAYED[0] in FAMILIES
    assert {one.graph for one in wanted.openings} <= known | {"-".join(PLAIN)}
    # Whatever is not the best has a reason.
    assert all(
        one.reason or (one.captured and one.attention.keys() <= {"flash", "causal flash"})
        for one in wanted.graphs.values()
    )


def facts(**changes: Any) -> Facts:
    """Of the graph `llama`, as expected but for `changes` of the plain call."""
    call = {"kernels": 61, "products": 16, "to_device": 2, "to_host": 1, "waits": 2, "a_layer": 23}
    plain = Counts(**{**call, "attention": {"flash": 2}, **changes})
    replayed = Counts(to_device=2, to_host=1, waits=3, replayed=1)
    return Facts(None, {"Squeeze": 2}, plain, Counts(captured=1, replayed=1), replayed)


def complaints(found: Facts) -> list[str]:
    wanted = load()
    return list(differing(wanted, wanted.graphs["llama"], found))


def test_what_is_as_expected_has_no_complaint() -> None:
    assert complaints(facts()) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"attention": {"memory-efficient": 2}}, "attention {'memory-efficient': 2}, wanted"),
        ({"a_layer": 24}, "a_layer of a call 24, wanted at most 23"),
        ({"to_device": 3}, "to_device of a call 3"),
        ({"waits": 3}, "waits of a call 3"),
        ({"taken": 1}, "taken of a call 1"),
        ({"cudnn": 3}, "3 uses of cuDNN"),
        ({"illegal": ["cudaMalloc"]}, "illegal: cudaMalloc"),
        ({"frozen": ["pinned->device 8"]}, "frozen: pinned->device 8"),
        ({"unanswered": ["cudaMemPoolCreate"]}, "unanswered: cudaMemPoolCreate"),
    ],
)
def test_each_difference_is_told(changes: dict[str, Any], told: str) -> None:
    (complaint,) = complaints(facts(**changes))
    assert complaint.startswith(told)


def test_work_on_the_cpu_errors_and_missing_graphs_are_told() -> None:
    replaced = msgspec.structs.replace
    assert complaints(replaced(facts(), elsewhere={"Attention": 2})) == ["on the CPU: Attention"]
    assert complaints(Facts(error="EngineError: no")) == ["EngineError: no"]
    plainly = facts()
    assert complaints(replaced(plainly, capture=Counts(), replay=plainly.plain)) == [
        "small calls are not captured once and replayed then",
        "77 launches beside the replayed graph",
    ]


def test_an_opening_is_held_to_its_error() -> None:
    opening = rules.Opening("a card", "llama-cuda-fp16", error="EngineUnavailable: .*no kernel")
    assert not list(misopened(opening, Facts(error="EngineUnavailable: here\nno kernel image")))
    assert list(misopened(opening, Facts(error="EngineError: no kernel image")))
    assert list(misopened(opening, facts()))
    opens = rules.Opening("with cuDNN", "x", attention={"flash": 2})
    assert not list(misopened(opens, facts()))
    assert list(misopened(opens, Facts(error="EngineUnavailable: no")))


OURS = """<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>
g (float[batch, 2] x) => (float[batch, 2] y)
{
    half = Cast <to = 10> (x)
    product = Mul (half, w)
    y = Cast <to = 1> (product)
}"""


def test_a_replay_sees_a_graph_that_means_something_else(tmp_path: Path) -> None:
    x = np.asarray([[1.0, 2.0], [3.0, 5.0]], np.float32)
    values = x * np.asarray([0.5, 2.0], np.float32)
    graphs = {
        "ours": OURS,
        # As ONNX Runtime writes it, with a copy between devices.
        "same": OURS.replace(
            "product = Mul (half, w)", "there = MemcpyToHost (half)\n product = Mul (there, w)"
        ),
        "other": OURS.replace("Mul", "Add"),
        "unknown": OURS.replace(
            "Mul (", "com.microsoft.BiasSoftmax <axis = 1, is_inner_broadcast = 1> ("
        ),
    }
    for name, text in graphs.items():
        model = parser.parse_model(text)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray([0.5, 2], "f2"), "w"))
        (tmp_path / name).write_bytes(model.SerializeToString())
    found = {
        name: replay(tmp_path / name, tmp_path / "ours", {"x": x}, values, "fp16")
        for name in graphs
    }
    assert found["ours"].complaints == found["same"].complaints == []
    assert found["same"].from_pytorch == 0
    assert len(found["other"].complaints) == 3
    assert found["unknown"].missing == ["BiasSoftmax"]
    assert found["unknown"].complaints == ["no kernel on the CPU for BiasSoftmax"]
    assert onnx.load(tmp_path / "ours").graph.initializer[0].data_type == onnx.TensorProto.FLOAT16


def test_targets_that_are_off_are_held_to_their_gains() -> None:
    wanted = load()
    assert wanted.opt_in.keys() == set(OPT_IN)
    assert all(wanted.opt_in[name].a_layer.keys() <= FAMILIES.keys() for name in OPT_IN)
    assert wanted.rule("llama", "cuda-fp16") == wanted.graphs["llama"]
    found = [wanted.rule("llama", target) for target in OPT_IN]
    assert [(one.inputs, one.a_layer) for one in found] == [(3, 27), (3, 15), (3, 15)]
    layer = wanted.layers["cuda-fp16-lean"]
    assert list(rules.heavier(layer, 0, 130.0)) == []
    assert list(rules.heavier(layer, 1, 130.1)) == [
        "1 casts a layer, wanted at most 0",
        "130.1 KB a token and layer, wanted at most 130.0",
    ]


def test_padding_is_counted_with_our_own_batching() -> None:
    assert [len(row) for row in mixed_rows()] == sorted(mixed_lengths(100))
    plain, packed = (of_target(load_target_profile(f"cuda-fp16{form}")) for form in ("", "-lean"))
    assert packed.real == packed.linear == plain.real
    assert packed.attention == plain.attention == plain.linear
    assert plain.share > 0.2
    assert packed.share == 0


LAYER = """<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>
g (float16[batch, sequence, 4] x, int64[one, tokens] places) => (float16[batch, sequence, 4] y)
{
    before = Softmax (x)
    wide = Cast <to = 1> (before)
    narrow = Cast <to = 10> (wide)
    normed, mean, deviation, total = com.microsoft.SkipSimplifiedLayerNormalization (narrow, x, w)
    flat = Reshape (total, shape)
    found = Gather (flat, places)
    product = MatMul (found, matrix)
    y = Softmax (product)
}"""


def test_the_bytes_of_a_layer_are_counted(tmp_path: Path) -> None:
    model = parser.parse_model(LAYER.replace("normed, mean, deviation, total", "normed, , , total"))
    for name, values in {
        "w": np.ones(4, np.float16),
        "shape": np.asarray([-1, 4]),
        "matrix": np.eye(4, dtype=np.float16),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    (tmp_path / "layer").write_bytes(model.SerializeToString())
    inputs = {"x": np.ones((2, 3, 4), np.float16), "places": np.arange(6)[None]}
    found = of_a_layer(tmp_path / "layer", inputs, 6)
    # Casts 1 + 2 and 2 + 1 states, the sum 2 + 2, the lookup 1 + 1 and an index of 8 bytes.
    assert (found.casts, found.states, found.hidden) == (2, 3 + 3 + 4 + 2 + 1, 4)
    assert found.kilobytes(1000) == found.states * 8


def test_rounding_is_that_of_half_precision() -> None:
    x = np.asarray([[1.0009, 2.003]], np.float32)
    found = {}
    for rounding in (False, True):
        model = parser.parse_model(OURS)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray([3, 3], "f2"), "w"))
        session = session_of(in_float32(model, rounding=rounding))
        (found[rounding],) = session.run(None, {"x": x})
    np.testing.assert_array_equal(found[False], x * 3)
    halves = x.astype(np.float16) * np.float16(3)
    np.testing.assert_array_equal(found[True], halves.astype(np.float32))
