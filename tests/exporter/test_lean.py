"""Fewer bytes beside the products: the same numbers, or what a rounding more costs."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from checks.cuda.replay import in_float32, session_of
from exporter.lean import save_bytes

HALVES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LAYERS = 2


def loaded(artifact: Path, precision: str = "fp16") -> ModelProto:
    """The graph of an artifact in float16; its weights rounded to bfloat16 for `bf16`, and those of
    norms to either, as trained ones are."""
    model = onnx.load(artifact / "model.onnx")
    kind = HALVES[precision]
    for tensor in model.graph.initializer:
        if "norm" in tensor.name:
            half = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(kind))
            tensor.CopyFrom(numpy_helper.from_array(half.astype(np.float32), tensor.name))
    if precision == "bf16":
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT16:
                values = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(kind))
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        for value in model.graph.value_info:
            if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
                value.type.tensor_type.elem_type = kind
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                    attribute.i = kind
    return model


def lean(model: ModelProto) -> ModelProto:
    found = ModelProto()
    found.CopyFrom(model)
    save_bytes(found.graph)
    onnx.checker.check_model(found)
    return found


def logits(
    model: ModelProto, rows: int, length: int, *, rounding: bool, least: int = 1
) -> np.ndarray:
    """Of seeded rows of `least` to `length` tokens, computed on the CPU; with `rounding` every
    16-bit value is rounded."""
    wide = ModelProto()
    wide.CopyFrom(model)
    session = session_of(in_float32(wide, rounding=rounding))
    drawn = np.random.default_rng(0)
    lengths = np.linspace(length, least, rows).round()[:, None]
    given = {
        "input_ids": drawn.integers(5, 80, (rows, length)),
        "attention_mask": (np.arange(length) < lengths).astype(np.int64),
    }
    (found,) = session.run(None, given)
    return np.asarray(found, np.float64)


def counts(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_a_layer_has_no_casts_and_half_of_the_kernels(half_artifact: Path) -> None:
    before = loaded(half_artifact)
    after = lean(before)
    found = counts(after)
    assert (found["Attention"], found["GatedRMSNorm"], found["RotaryEmbedding"]) == (LAYERS,) * 3
    assert "Sigmoid" not in found
    assert found["MatMul"] == counts(before)["MatMul"] - 2 * LAYERS
    made = {name: node for node in after.graph.node for name in node.output}
    known = {v.name: v.type.tensor_type.elem_type for v in after.graph.value_info}
    weights = {i.name for i in after.graph.initializer}
    sums = [n for n in after.graph.node if n.op_type == "SkipSimplifiedLayerNormalization"]
    # The last norm is computed in float32, as pooling is.
    assert [known[n.output[0]] for n in sums] == [TensorProto.FLOAT16] * (2 * LAYERS - 1) + [1]
    for node in sums[:-1]:
        casts = [name for name in node.input if name in made and made[name].op_type == "Cast"]
        assert all(made[name].input[0] in weights for name in casts)


def test_without_rounding_it_is_the_same(half_artifact: Path) -> None:
    model = loaded(half_artifact)
    before, after = (logits(one, 3, 9, rounding=False) for one in (model, lean(model)))
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_rotations_of_another_kind_are_not_joined(half_artifact: Path) -> None:
    """One rotation of the joined product would be the usual one."""
    joined = {}
    for interleaved in (0, 1):
        model = onnx.load(half_artifact / "model.onnx")
        for node in model.graph.node:
            if node.op_type == "RotaryEmbedding" and interleaved:
                node.attribute.append(helper.make_attribute("interleaved", interleaved))
        save_bytes(model.graph)
        names = [name for node in model.graph.node for name in node.output]
        joined[interleaved] = any(name.endswith(".part") for name in names)
    assert joined == {0: True, 1: False}


@pytest.mark.parametrize(("precision", "place"), [("fp16", 2**-11), ("bf16", 2**-8)])
def test_what_half_precision_between_the_products_costs(
    half_artifact: Path, precision: str, place: float
) -> None:
    """At most a few times what it costs in the products, also at long positions."""
    model = loaded(half_artifact, precision)
    for rows, length, least in ((8, 40, 1), (2, 1000, 900)):
        exact = logits(model, rows, length, rounding=False, least=least)
        far = [
            np.abs(logits(one, rows, length, rounding=True, least=least) - exact).max()
            for one in (model, lean(model))
        ]
        assert 0 < far[0] < 4 * place
        assert far[1] < 4 * place


def test_a_gate_is_one_kernel_up_to_large_values() -> None:
    """GatedRMSNorm is the product with a SiLU, by its formula in float32."""
    drawn = np.random.default_rng(0)
    gate = drawn.standard_normal((4, 256)).astype(np.float32)
    up = (drawn.standard_normal((4, 256)) * [[1], [30], [300], [1000]]).astype(np.float32)
    scale = np.full(256, 2.0**15, np.float32)
    node = helper.make_node(
        "GatedRMSNorm",
        ["up", "scale", "gate"],
        ["found"],
        domain="com.microsoft",
        activation="silu",
        epsilon=2.0**30,
    )
    named = {"up": up, "scale": scale, "gate": gate, "found": up}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, one.shape)
        for name, one in named.items()
    }
    found_value = values.pop("found")
    graph = helper.make_graph([node], "g", list(values.values()), [found_value])
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    session = session_of(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    (found,) = session.run(None, {"up": up, "scale": scale, "gate": gate})
    wanted = up.astype(np.float64) * gate / (1 + np.exp(-gate.astype(np.float64)))
    off = (np.abs(found - wanted) / np.abs(wanted).max(axis=1, keepdims=True)).max(axis=1)
    assert (off[:3] < 2**-13).all()
    assert 2**-13 < off[3] < 2**-10
