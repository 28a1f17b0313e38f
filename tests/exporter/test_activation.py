"""The activation that a checkpoint was saved with, on its way into the manifest."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exporter import pipeline
from exporter.checkpoint import read_checkpoint
from exporter.cli import main
from exporter.errors import CheckpointRefused, ManifestMismatch
from exporter.pipeline import ExportArgs, export, verify
from exporter.report import read_report
from exporter.seal import seal, version_of
from runtime.manifest import Manifest, read_manifest, write_manifest
from tests.exporter.conftest import ReadyGraph

SIGMOID, IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"


def saved_with(checkpoint: Path, place: Path, name: Any, version: int = 4) -> Path:
    """A copy of the checkpoint as this version of sentence-transformers saves the activation."""
    shutil.copytree(checkpoint, place)
    config = json.loads((place / "config.json").read_bytes())
    if version == 6:
        settings = {"model_type": "CrossEncoder", "activation_fn": name}
        (place / "config_sentence_transformers.json").write_text(json.dumps(settings))
        module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.Transformer"}
        (place / "modules.json").write_text(json.dumps([module]))
        task = {"transformer_task": "sequence-classification"}
        (place / "sentence_bert_config.json").write_text(json.dumps(task))
    elif version == 4:
        config["sentence_transformers"] = {"activation_fn": name, "version": "4.1.0"}
    else:
        config["sbert_ce_default_activation_function"] = name
    (place / "config.json").write_text(json.dumps(config))
    return place


@pytest.mark.parametrize("version", [3, 4, 6])
def test_every_version_s_place_is_read(
    tiny_llama_checkpoint: Path, tmp_path: Path, version: int
) -> None:
    for name, wanted in ((IDENTITY, "identity"), (SIGMOID, "sigmoid"), (None, "sigmoid")):
        place = saved_with(tiny_llama_checkpoint, tmp_path / f"{wanted} {name}", name, version)
        assert read_checkpoint(str(place)).activation == wanted
    tanh = "torch.nn.modules.activation.Tanh"
    place = saved_with(tiny_llama_checkpoint, tmp_path / "tanh", tanh, version)
    with pytest.raises(CheckpointRefused, match=rf"= '{tanh}', wanted one of: .*Sigmoid"):
        read_checkpoint(str(place))


def test_embedders_have_none(tiny_embed_checkpoint: Path, tmp_path: Path) -> None:
    place = saved_with(tiny_embed_checkpoint, tmp_path / "embed", "torch.nn.Tanh")
    assert read_checkpoint(str(place)).activation is None


def test_the_artifact_has_the_checkpoint_s(
    tiny_llama_checkpoint: Path,
    rank_artifact: Path,
    tmp_path: Path,
    ready_graph: ReadyGraph,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ready_graph(rank_artifact)
    checkpoint = saved_with(tiny_llama_checkpoint, tmp_path / "identity", IDENTITY)
    out = tmp_path / "out"
    export(str(checkpoint), out, ExportArgs(max_tokens=64))
    found = read_manifest(out)
    assert (found.schema, found.activation) == (2, "identity")
    assert found.version == version_of(found)
    assert found.version != version_of(msgspec.structs.replace(found, activation="sigmoid"))
    assert main(["inspect", str(out)]) == 0
    (shown,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("activation "))
    assert shown.split(maxsplit=2)[1:] == ["identity", found.origins["activation"]]
    verify(out, str(checkpoint), None)
    with pytest.raises(ManifestMismatch, match="activation = 'identity', wanted 'sigmoid'"):
        verify(out, str(tiny_llama_checkpoint), None)


def test_an_artifact_of_schema_1_is_verified(
    tiny_llama_checkpoint: Path, rank_artifact: Path, tmp_path: Path
) -> None:
    """It was proven without this fact, which its checkpoint may bear out or not."""
    place = shutil.copytree(rank_artifact, tmp_path / "old")
    report = json.loads((place / "parity.json").read_bytes())
    (place / "parity.json").write_text(json.dumps(report | {"schema": 1}))
    assert read_report(place).schema == 1
    manifest = read_manifest(place)
    (place / "manifest.json").unlink()
    old = msgspec.to_builtins(seal(place, msgspec.structs.replace(manifest, schema=1)))
    assert old["version"] == manifest.version
    del old["activation"]
    (place / "manifest.json").write_text(json.dumps(old))
    assert verify(place, str(tiny_llama_checkpoint), None).schema == 1
    checkpoint = saved_with(tiny_llama_checkpoint, tmp_path / "identity", IDENTITY)
    with pytest.raises(ManifestMismatch, match="activation = 'sigmoid', wanted 'identity'"):
        verify(place, str(checkpoint), None)


@pytest.mark.heavy
def test_a_quantized_artifact_of_schema_1_is_of_schema_1_without_the_checkpoint(
    tiny_llama_checkpoint: Path,
    rank_artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = shutil.copytree(rank_artifact, tmp_path / "old")
    manifest = read_manifest(place)
    write_manifest(place, msgspec.structs.replace(manifest, schema=1))
    drafts = []

    def noted(directory: Path, draft: Manifest, *_: object) -> Manifest:
        drafts.append((draft.schema, draft.activation))
        return draft

    # What rounds and proves: the draft is made before it.
    monkeypatch.setattr(pipeline, "_make", noted)
    for checkpoint in (None, str(tiny_llama_checkpoint)):
        pipeline.quantize_artifact(place, tmp_path / "out", "cpu-int8", checkpoint=checkpoint)
        shutil.rmtree(tmp_path / "out")
    assert drafts == [(1, "sigmoid"), (2, "sigmoid")]
