"""The table of what TensorRT's parser takes, and graphs held against it."""

import tomllib
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, parser

from exporter.errors import ExportError
from exporter.tensorrt_graph import complaints, needed_version, require_parsed
from exporter.tensorrt_operators import first_version, supported

_ROOT = Path(__file__).resolve().parents[2]
_TABLE = tomllib.loads((_ROOT / "exporter" / "tensorrt_operators.toml").read_text("utf-8"))


def graph(body: str, inputs: str = "float[b, h, s, d] x, int64[b, s] ids") -> onnx.ModelProto:
    """A graph of the nodes in `body`, which ends in the value y."""
    text = f"""<ir_version: 10, opset_import: ["" : 23, "trt" : 1]>
    g ({inputs}) => (y) <int64[1] axes = {{1}}, int8 zero = {{0}}, int8 one = {{1}},
        float scale = {{0.5}}> {{ {body} }}"""
    return parser.parse_model(text)


def test_names_are_in_the_table_once_and_versions_are_its_own() -> None:
    names = [name for group in _TABLE["operators"].values() for name in group.split()]
    assert len(names) == len(set(names)) == len(supported())
    for part in ("axes", "unread"):
        assert set(_TABLE[part]["operators"].split()) <= set(names)
    assert _TABLE["since"].keys() | _TABLE["limits"].keys() <= set(names)
    assert set(_TABLE["since"].values()) <= set(_TABLE["versions"])
    assert _TABLE["operators"].keys() <= _TABLE["types"].keys()
    assert {kind for kinds in _TABLE["types"].values() for kind in kinds} <= set(
        TensorProto.DataType.keys()
    )


@pytest.mark.parametrize(
    ("names", "version"),
    [
        ([], "10.13"),
        (["Add", "MatMul"], "10.13"),
        (["Add", "Attention"], "10.14"),
        (["Attention", "RMSNormalization", "RotaryEmbedding"], "10.15"),
        (["RMSNormalization", "Swish"], "11.0"),
        (["TRT_Attention", "Attention"], "11.1"),
        (["Add", "DynamicQuantizeLinear"], None),
    ],
)
def test_a_graph_needs_the_version_of_its_newest_operator(
    names: list[str], version: str | None
) -> None:
    assert first_version(names) == version
    model = helper.make_model(
        helper.make_graph([helper.make_node(n, [], []) for n in names], "", [], [])
    )
    assert needed_version(model) == version


@pytest.mark.parametrize(
    "body",
    [
        "y = Attention (x, x, x)",
        "y = Attention <softcap = 0.0> (x, x, x)",
        "y = Where (yes, x, x)",
        "y = ReduceSum (ids, axes)",
        "q = QuantizeLinear (x, scale, zero) y = DequantizeLinear (q, scale, zero)",
        "k = Shape (ids) y = CumSum (ids, axes)",
        "y = Concat <axis = 1> (ids, ids, ids)",
    ],
)
def test_what_the_parser_takes_is_not_complained_of(body: str) -> None:
    assert complaints(graph(body, "float[b, h, s, d] x, int64[b, s] ids, bool[1] yes")) == []


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("y = Frobnicate (x)", "no version knows it"),
        ("y = BitwiseNot (ids)", "no version knows it"),
        ("y, i = TopK (x, axes)", "its restrictions are not in tensorrt_operators.toml"),
        ("y = Not (ids)", "input 0 is INT64, wanted BOOL"),
        ("y = Sin (ids)", "input 0 is INT64, wanted BFLOAT16, FLOAT, FLOAT16"),
        ("b = Cast <to = 9> (ids) y = Add (x, b)", "input 1 is BOOL"),
        ("y = Attention <softcap = 2.0> (x, x, x)", "it has the attribute softcap, wanted none"),
        ("y = Attention (x, x, x, , x, x)", "input 4 is given, wanted none"),
        ("y, k, v = Attention (x, x, x)", "3 outputs, wanted 1"),
        (
            "f = Flatten (x) y = Attention <q_num_heads = 1, kv_num_heads = 1> (x, x, x, f)",
            "input 3 has rank 2, wanted 4",
        ),
        ("y = Unsqueeze (x, ids)", "input 1 is computed, wanted a constant"),
        ("y = QuantizeLinear (x, scale, one)", "input 2 is not 0, wanted 0"),
        ("l = Cast <to = 1> (axes) y = trt.TRT_Attention (x, x, x, , , l)", "input 5 is FLOAT"),
        ("y = trt.TRT_Attention (x, x, x, x)", "input 3 is given, wanted none"),
    ],
)
def test_what_the_parser_does_not_take_is_told(body: str, told: str) -> None:
    assert told in "; ".join(complaints(graph(body)))


def test_another_opset_is_told() -> None:
    model = graph("y = Sin (x)")
    model.opset_import[0].version = 25
    assert complaints(model) == ["opset 25, wanted 9 to 24"]


def test_a_graph_that_is_not_parsed_ends_the_export(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(graph(" ".join(f"v{i} = BitwiseNot (ids)" for i in range(7)) + " y = Sin (x)"), path)
    with pytest.raises(ExportError, match=r"found in model.onnx, wanted .* and 2 more; export for"):
        require_parsed(path)
    onnx.save(graph("y = Sin (x)"), path)
    require_parsed(path)
