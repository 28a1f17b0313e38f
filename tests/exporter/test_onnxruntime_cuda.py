"""Half precision: which values of a graph are in it, and the operators of the CUDA provider."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper, parser

from exporter.checkpoint import load_model, read_checkpoint
from exporter.errors import ExportError
from exporter.onnx_file import move_to_onnx
from exporter.onnxruntime_cuda import adapt, use_fast_kernels
from runtime.manifest import read_manifest
from tests.conftest import Exported
from tests.exporter.targets import HALF
from tests.tiny_checkpoints import write_llama
from tests.zoo.cases import CASES

HALVES = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
# What may compute in half precision, and nothing else: products and the operators between them.
IN_HALF = {"Add", "Attention", "Cast", "Gather", "Gelu", "MatMul", "Mul", "Reshape", "Sigmoid"} | {
    "Transpose"
}

# What ONNX Runtime's CUDA provider has no kernel of its own for; with int64 ReduceSum, it has.
WANTS_CUDNN = {"ArgMax", "ArgMin", "Conv", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin"}


def write_graph(checkpoint: Path, directory: Path, dtype: torch.dtype) -> Path:
    model = load_model(read_checkpoint(str(checkpoint)))
    directory.mkdir()
    move_to_onnx(model if dtype == torch.float32 else model.halve(dtype), directory)
    return directory


def types(model: ModelProto) -> dict[str, int]:
    graph = model.graph
    found = {i.name: i.data_type for i in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        found[value.name] = value.type.tensor_type.elem_type
    return found


def operators(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_only_products_are_in_bfloat16(tiny_llama_checkpoint: Path, tmp_path: Path) -> None:
    directory = write_graph(tiny_llama_checkpoint, tmp_path / "graph", torch.bfloat16)
    assert_only_products_are_halves(directory, torch.bfloat16)
    adapt(directory)
    assert_only_products_are_halves(directory, torch.bfloat16)


@pytest.mark.heavy
@pytest.mark.parametrize("family", ["llama", "embed", "bert"])
def test_only_products_are_in_float16(
    family: str, checkpoints: dict[str, Path], exported: Exported
) -> None:
    artifact = exported(checkpoints[family], HALF)
    manifest = read_manifest(artifact)
    assert (manifest.precision, manifest.opset) == ("fp16", 24)
    assert_only_products_are_halves(artifact, torch.float16)


def test_the_same_for_tensorrt_holds_onnxs_own_operators(planless: Path) -> None:
    assert_only_products_are_halves(planless, torch.float16)
    model = onnx.load(planless / "model.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 23)]


def assert_only_products_are_halves(directory: Path, dtype: torch.dtype) -> None:
    model = onnx.load(directory / "model.onnx")
    known = types(model)
    half = {name for name, kind in known.items() if kind in HALVES}
    weights = {i.name for i in model.graph.initializer}
    wanted = {torch.float16: TensorProto.FLOAT16, torch.bfloat16: TensorProto.BFLOAT16}
    assert {known[name] for name in half} == {wanted[dtype]}
    for node in model.graph.node:
        if half.isdisjoint([*node.input, *node.output]):
            continue
        assert node.op_type in IN_HALF, node.op_type
        if node.op_type == "Add":  # a layer's bias: the residual stream is float32
            assert weights.intersection(node.input)
        if node.op_type == "Cast":  # each way between the two is written down
            assert len(half.intersection([*node.input, *node.output])) == 1
    norms = {"RMSNormalization", "LayerNormalization"}
    norms |= {"SkipSimplifiedLayerNormalization", "SkipLayerNormalization"}
    assert sum(operators(model)[name] for name in norms) == 5
    head = {n for n in weights if n.startswith(("score", "classifier", "bert.pooler"))}
    assert bool(head) == (model.graph.output[0].name == "logits")
    assert not head & half
    products = [n.input[1] for n in model.graph.node if n.op_type == "MatMul"]
    assert {name for name in products if name in weights} <= half
    assert len(half & set(products)) >= 12


@pytest.mark.parametrize(
    ("family", "attentions", "sums"),
    [
        ("llama", 2, 4),
        ("embed", 2, 4),
        ("bert", 2, 4),
        pytest.param("xlm-roberta", 2, 5, marks=pytest.mark.heavy),
        ("modernbert", 1, None),
        ("deberta", 0, None),
    ],
)
def test_the_fast_operators_give_the_same_on_either_side_of_the_padding(
    checkpoints: dict[str, Path],
    exported: Exported,
    tmp_path: Path,
    family: str,
    attentions: int,
    sums: int | None,
) -> None:
    if family in ("bert", "xlm-roberta"):
        # Graphs for the CPU compute one token in the last layer, those for a GPU all of them.
        move_to_onnx(load_model(read_checkpoint(str(checkpoints[family]))), tmp_path)
    else:
        shutil.copyfile(exported(checkpoints[family]) / "model.onnx", tmp_path / "model.onnx")
    plain = onnx.load(tmp_path / "model.onnx")
    adapt(tmp_path)
    fast = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(fast)
    assert [(o.domain, o.version) for o in fast.opset_import] == [("", 24), ("com.microsoft", 1)]
    assert not WANTS_CUDNN & operators(fast).keys()
    by_lengths = [n for n in fast.graph.node if n.op_type == "Attention" and not n.input[3]]
    assert len(by_lengths) == attentions
    if sums is not None:
        assert operators(fast)["Transpose"] == 0
        found = operators(fast)
        assert found["SkipSimplifiedLayerNormalization"] + found["SkipLayerNormalization"] == sums
    wanted, session = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
        for m in (plain, fast)
    )
    generator = np.random.default_rng(0)
    for rows, length in ((1, 1), (1, 3), (3, 7), (7, 30), (2, 90)):
        ids = generator.integers(5, 80, (rows, length))
        real = length - np.arange(rows) * (length // (rows + 1))
        right = (np.arange(length) < real[:, None]).astype(np.int64)
        order = (np.arange(length) + real[:, None]) % length
        (first,) = wanted.run(None, inputs(session, ids, right))
        (second,) = session.run(None, inputs(session, ids, right))
        np.testing.assert_allclose(second, first, atol=1e-5)
        if attentions and family != "modernbert":
            left = np.take_along_axis(right, order, 1)
            (third,) = session.run(None, inputs(session, np.take_along_axis(ids, order, 1), left))
            np.testing.assert_allclose(third, second, atol=1e-6)


@pytest.mark.heavy
def test_a_causal_model_needs_neither_mask_nor_lengths(tmp_path: Path) -> None:
    """Qwen3's own class: every attention is in the operator's causal form, whichever side is
    padded."""
    (case,) = (case for case in CASES if case.name == "qwen3-classifier-fp32")
    directory = write_graph(case.build(tmp_path / "checkpoint"), tmp_path / "graph", torch.float32)
    plain = onnxruntime.InferenceSession(directory / "model.onnx")
    adapt(directory)
    fast = onnx.load(directory / "model.onnx")
    onnx.checker.check_model(fast)
    found = [node for node in fast.graph.node if node.op_type == "Attention"]
    names = [{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in found]
    assert [
        (len(node.input), its["is_causal"]) for node, its in zip(found, names, strict=True)
    ] == [
        (3, 1),
        (3, 1),
    ]
    assert [(its["q_num_heads"], its["kv_num_heads"]) for its in names] == [(4, 2)] * 2
    assert operators(fast)["Transpose"] == 0
    session = onnxruntime.InferenceSession(directory / "model.onnx")
    ids = np.random.default_rng(0).integers(5, 80, (3, 9))
    right = (np.arange(9) < np.asarray([[9], [5], [1]])).astype(np.int64)
    (wanted,) = plain.run(None, inputs(plain, ids, right))
    (behind,) = session.run(None, inputs(session, ids, right))
    order = (np.arange(9) + np.asarray([[9], [5], [1]])) % 9
    turned = (np.take_along_axis(one, order, 1) for one in (ids, right))
    (ahead,) = session.run(None, inputs(session, *turned))
    np.testing.assert_allclose(behind, wanted, atol=1e-5)
    np.testing.assert_allclose(ahead, behind, atol=1e-6)


def test_a_row_without_real_tokens_is_finite_and_disturbs_no_other(
    rank_artifact: Path, tmp_path: Path
) -> None:
    shutil.copyfile(rank_artifact / "model.onnx", tmp_path / "model.onnx")
    adapt(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    ids = np.arange(10).reshape(2, 5) + 2
    mask = np.asarray([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    (both,) = session.run(None, inputs(session, ids, mask))
    (alone,) = session.run(None, inputs(session, ids[:1, :3], mask[:1, :3]))
    assert np.isfinite(both).all()
    np.testing.assert_allclose(both[:1], alone, atol=1e-6)


def test_nothing_is_copied_from_host_to_device(half_artifact: Path) -> None:
    assert_nothing_is_copied(onnx.load(half_artifact / "model.onnx").graph)


def assert_nothing_is_copied(graph: GraphProto) -> None:
    """Captured CUDA graphs allow no copies: what comes from Shape may only give sizes."""
    constant = {i.name for i in graph.initializer}
    host: set[str] = set()
    for node in graph.node:
        read = [name for name in node.input if name and name not in constant]
        if node.op_type == "Shape" or (read and host.issuperset(read) and node.op_type != "Range"):
            host.update(node.output)
        elif crossing := host.intersection(read):
            sizes = {"Range": node.input, "Expand": node.input[1:], "Reshape": node.input[1:]}
            assert crossing <= set(sizes.get(node.op_type, ())), node.op_type
    assert host


def test_patches_are_a_product_and_rows_share_no_factor() -> None:
    """Convolutions need cuDNN; for a shared factor cuBLAS gets addresses that a replayed CUDA graph
    would read again after they are gone."""
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[tiles, 3, 8, 6] pixels, float[tiles, 4, 5, 7] x)
            => (float[tiles, 5, 4, 2] y, float[tiles, 4, 5, 5] z)
        <float[tiles, 4, 5, 6] w1, float[1, 4, 7, 6] one, float[1, 4, 6, 5] two>
        {
            y = Conv <kernel_shape = [2, 3], strides = [2, 3], pads = [0, 0, 0, 0]>
                (pixels, kernel, bias)
            one = Identity (right)
            w1 = MatMul (x, one)
            two = Identity (further)
            z = MatMul (w1, two)
        }""")
    drawn = np.random.default_rng(0)
    shapes = {"kernel": (5, 3, 2, 3), "bias": (5,), "right": (1, 4, 7, 6), "further": (1, 4, 6, 5)}
    for name, shape in shapes.items():
        values = drawn.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    given = {
        "pixels": drawn.standard_normal((2, 3, 8, 6)).astype(np.float32),
        "x": drawn.standard_normal((2, 4, 5, 7)).astype(np.float32),
    }
    wanted = run(model, given)
    use_fast_kernels(model)
    onnx.checker.check_model(model)
    found = operators(model)
    assert (found["Conv"], found["MatMul"], found["Expand"]) == (0, 3, 2)
    for one, other in zip(wanted, run(model, given), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_means_lengths_and_ends_are_computed_without_cudnn() -> None:
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 23]>
        g (int64[batch, sequence] mask, float[batch, sequence, 6] states)
            => (float[batch, 6] y, int64[batch, 1] least, int64[batch, 1] greatest)
        <int64[1] last = {-1}, int64[1] tokens = {1}>
        {
            least = ReduceMin <keepdims = 1> (mask, tokens)
            greatest = ReduceMax <keepdims = 1> (mask, tokens)
            real = Cast <to = 1> (mask)
            weights = Unsqueeze (real, last)
            weighted = Mul (states, weights)
            total = ReduceSum <keepdims = 0> (weighted, tokens)
            count = ReduceSum <keepdims = 0> (weights, tokens)
            mean = Div (total, count)
            size = ReduceL2 <keepdims = 1> (mean, tokens)
            y = Div (mean, size)
        }""")
    states = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
    given = {"mask": np.asarray([[1, 2, 0], [3, 1, 1]]), "states": states}
    wanted = run(model, given)
    use_fast_kernels(model)
    onnx.checker.check_model(model)
    found = operators(model)
    assert not WANTS_CUDNN & found.keys()
    assert (found["MatMul"], found["TopK"], found["ReduceSum"]) == (1, 2, 2)
    for one, other in zip(wanted, run(model, given), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def run(model: ModelProto, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=providers)
    return list(session.run(None, given))


def test_a_causal_model_needs_no_mask(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "c", is_causal=True, num_hidden_layers=1)
    directory = write_graph(checkpoint, tmp_path / "graph", torch.float32)
    adapt(directory)
    model = onnx.load(directory / "model.onnx")
    (node,) = (n for n in model.graph.node if n.op_type == "Attention")
    assert len(node.input) == 3
    assert [a.i for a in node.attribute if a.name == "is_causal"] == [1]
    assert_nothing_is_copied(model.graph)


def test_a_graph_of_another_opset_is_refused() -> None:
    model = ModelProto()
    model.opset_import.add(domain="", version=18)
    with pytest.raises(ExportError, match="wanted 23"):
        use_fast_kernels(model)


def inputs(
    session: onnxruntime.InferenceSession, ids: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray]:
    values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids % 2}
    return {i.name: values[i.name] for i in session.get_inputs()}
