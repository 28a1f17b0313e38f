"""rerank-export quantize: an artifact of a lower precision from a proven one."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from exporter import target_graph
from exporter.cli import main
from exporter.errors import ExportError, ManifestMismatch, OutputRefused, ParityFailed
from exporter.long_rows import chunk_attention, unchunk_attention
from exporter.pipeline import quantize_artifact, verify
from exporter.report import read_report
from exporter.seal import seal
from runtime.errors import FileChanged
from runtime.manifest import read_manifest, write_manifest
from runtime.opening import open_ranker
from tests.tiny_checkpoints import write_llama


@pytest.fixture(autouse=True)
def no_torch_export(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph must come from the artifact."""
    for name in ("rank_artifact", "embed_artifact"):
        request.getfixturevalue(name)

    def refuse(*_: object) -> None:
        raise AssertionError("exported ONNX again")

    monkeypatch.setattr(target_graph, "move_to_onnx", refuse)


@pytest.mark.heavy
def test_against_the_checkpoint_it_is_what_an_export_makes(
    rank_artifact: Path, tiny_llama_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    made = quantize_artifact(
        rank_artifact, out, "cpu-int8-weights", checkpoint=str(tiny_llama_checkpoint)
    )
    source = read_manifest(rank_artifact)
    assert (made.target, made.precision) == ("cpu-int8-weights", "int8-weights")
    assert (made.template, made.special_tokens) == (source.template, source.special_tokens)
    assert made.goldens != source.goldens
    report = read_report(out)
    assert report.witness == source.witness
    assert report.rule == "random-weights"
    verify(out, None, None)


def written_before(artifact: Path, place: Path) -> Path:
    """A copy as schema 1 had it: without a witness."""
    shutil.copytree(artifact, place)
    for name in ("parity.json", "reference.json"):
        message = json.loads((place / name).read_bytes()) | {"schema": 1}
        del message["witness"]
        (place / name).write_text(json.dumps(message))
    (place / "manifest.json").unlink()
    seal(
        place,
        msgspec.structs.replace(
            read_manifest(artifact), schema=1, witness=None, origins={}, activation=None
        ),
    )
    return place


def test_an_artifact_of_schema_1_is_read_as_not_witnessed(
    rank_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = written_before(rank_artifact, tmp_path / "old")
    assert main(["verify", str(old)]) == 0
    assert main(["inspect", str(old)]) == 0
    assert "compared with    not witnessed" in capsys.readouterr().out
    made = quantize_artifact(old, tmp_path / "out", "cpu-int8-weights")
    assert made.witness is not None
    assert made.witness.startswith("not witnessed: made of the fp32 artifact")
    for directory in (old, tmp_path / "out"):
        with closing(open_ranker(directory)) as ranker:
            assert not ranker.info.proven


def test_without_a_checkpoint_parity_names_the_artifact(
    embed_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    arguments = ["quantize", str(embed_artifact), "--target", "cpu-int8-weights", "--out", out]
    assert main(arguments) == 0
    assert "tau " in capsys.readouterr().out
    source = read_manifest(embed_artifact)
    message = f"the fp32 artifact {source.version}, whose witness is {source.witness}"
    assert read_report(tmp_path / "out").witness == message
    assert main(["inspect", out]) == 0
    assert f"compared with    {message}" in capsys.readouterr().out


def test_a_changed_artifact_proves_nothing(rank_artifact: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(rank_artifact, tmp_path / "copy")
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(FileChanged):
        quantize_artifact(copy, tmp_path / "out", "cpu-int8")
    assert not (tmp_path / "out").exists()


def test_another_checkpoint_is_noticed(rank_artifact: Path, tmp_path: Path) -> None:
    other = write_llama(tmp_path / "other", temperature=2.0)
    with pytest.raises(ManifestMismatch, match="temperature"):
        quantize_artifact(rank_artifact, tmp_path / "out", "cpu-int8", checkpoint=str(other))


@pytest.mark.parametrize("target", ["cpu-fp32", "cuda-fp16"])
def test_a_target_of_no_lower_precision_is_refused(
    target: str, rank_artifact: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="rerank-export export"):
        quantize_artifact(rank_artifact, tmp_path / "out", target)


def test_the_source_is_not_replaced(rank_artifact: Path) -> None:
    with pytest.raises(OutputRefused, match="another --out"):
        quantize_artifact(rank_artifact, rank_artifact, "cpu-int8")


def test_a_quantized_artifact_is_no_source(rank_artifact: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(rank_artifact, tmp_path / "copy")
    write_manifest(copy, msgspec.structs.replace(read_manifest(copy), precision="int8"))
    with pytest.raises(ExportError, match="found an artifact in int8"):
        quantize_artifact(copy, tmp_path / "out", "cpu-int8-weights")


def test_pieces_of_attention_are_put_together_again(rank_artifact: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(rank_artifact, tmp_path / "copy")
    before = onnx.load(copy / "model.onnx")
    chunk_attention(copy)
    assert any(node.op_type == "If" for node in onnx.load(copy / "model.onnx").graph.node)
    unchunk_attention(copy)
    after = onnx.load(copy / "model.onnx")
    assert after.graph.node == before.graph.node
    names = [[t.name for t in model.graph.initializer] for model in (before, after)]
    assert names[0] == names[1]


def test_rungs_that_fail_leave_their_report(
    rank_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(target_graph.quantize.__globals__, "quantize_weights", _ruin)
    with pytest.raises(ParityFailed) as failed:
        quantize_artifact(rank_artifact, tmp_path / "out", "cpu-int8-weights")
    assert failed.value.report is not None
    assert failed.value.report.is_file()
    assert not (tmp_path / "out").exists()


def _ruin(model: onnx.ModelProto) -> int:
    """Turn every matrix upside down."""
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(np.ascontiguousarray(values[::-1]), tensor.name)
            )
    return 1
