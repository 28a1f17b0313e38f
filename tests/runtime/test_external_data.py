"""Names of weights that lead elsewhere are found wherever a graph may hold a tensor."""

import os
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from runtime import external_data
from runtime.errors import ArtifactError
from runtime.external_data import check_external_files, external_files
from runtime.opening import open_ranker
from tests.runtime.conftest import write_bare_directory


def outside(name: str, location: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def model_with(directory: Path, where: str, location: str) -> Path:
    """A graph with one external tensor."""
    tensor = outside("t", location)
    sparse = helper.make_sparse_tensor(
        outside("values", location), helper.make_tensor("i", TensorProto.INT64, [1], [0]), [4]
    )
    inner = helper.make_graph([], "inner", [], [], [tensor])
    nodes = {
        "attribute": [helper.make_node("Constant", [], ["c"], value=tensor)],
        "branch": [helper.make_node("If", ["x"], ["c"], then_branch=inner, else_branch=inner)],
        "sparse": [helper.make_node("Constant", [], ["c"], sparse_value=sparse)],
    }
    graph = helper.make_graph(
        nodes.get(where, []),
        "g",
        [],
        [],
        [tensor] if where == "initializer" else [],
        sparse_initializer=[sparse] if where == "sparse_initializer" else [],
    )
    functions = []
    if where == "function":
        functions = [
            helper.make_function(
                "d", "f", [], ["c"], nodes["attribute"], [helper.make_opsetid("", 20)]
            )
        ]
    path = directory / "model.onnx"
    path.write_bytes(helper.make_model(graph, functions=functions).SerializeToString())
    return path


@pytest.mark.parametrize(
    "where",
    ["initializer", "attribute", "branch", "sparse", "sparse_initializer", "function"],
)
def test_every_place_is_looked_at(tmp_path: Path, where: str) -> None:
    assert external_files(model_with(tmp_path, where, "weights.bin")) == {"weights.bin"}


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/hostname", "a/../../secret", "link", "", ".", "a\0b", "folder", "x" * 5000],
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, location: str) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "folder").mkdir()
    (tmp_path / "secret").write_bytes(b"1234")
    os.symlink(tmp_path / "secret", directory / "link")
    with pytest.raises(ArtifactError) as refused:
        check_external_files(model_with(directory, "initializer", location))
    assert str(refused.value).isprintable()


def test_a_directory_with_such_a_graph_is_not_opened(tmp_path: Path) -> None:
    directory = write_bare_directory(tmp_path / "bare")
    (tmp_path / "secret").write_bytes(b"1234")
    model = onnx.load(directory / "model.onnx")
    model.graph.initializer.append(outside("unused", "../secret"))
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="outside its directory"):
        open_ranker(directory)


@pytest.mark.parametrize("location", ["weights.bin", "./weights.bin", "a//weights.bin"])
def test_a_name_may_be_spelled_in_several_ways(tmp_path: Path, location: str) -> None:
    (tmp_path / "a").mkdir()
    for folder in (tmp_path, tmp_path / "a"):
        (folder / "weights.bin").write_bytes(b"1234")
    assert check_external_files(model_with(tmp_path, "initializer", location)) == {location}


def test_fields_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bytes make a field: a graph of 2 GiB would be read for an hour."""
    monkeypatch.setattr(external_data, "_MOST_FIELDS", 100)
    (tmp_path / "model.onnx").write_bytes(b"\x08\x01" * 101)
    with pytest.raises(ArtifactError, match="more than 100 fields"):
        external_files(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "raw", [b"", b"no graph at all", b"\x3a\xff\xff\xff\x7f", b"\x3b" * 9, b"\0\0"]
)
def test_what_is_no_onnx_file(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(raw)
    with pytest.raises(ArtifactError, match="is no ONNX file"):
        external_files(path)
