"""`make check-cuda` without its library: what is counted, expected and replayed."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from checks.cuda import expected as rules
from checks.cuda.expected import differing, load, misopened
from checks.cuda.failing import FAILURES
from checks.cuda.families import FAMILIES, PLAIN, REPLAYED, TARGETS
from checks.cuda.probe import Facts
from checks.cuda.replay import replay
from checks.cuda.trace import Counts, count

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
    assert len(found["other"].complaints) == 2
    assert found["unknown"].missing == ["BiasSoftmax"]
    assert found["unknown"].complaints == ["no kernel on the CPU for BiasSoftmax"]
    assert onnx.load(tmp_path / "ours").graph.initializer[0].data_type == onnx.TensorProto.FLOAT16
