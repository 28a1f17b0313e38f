"""Adapters through every command: where base and adapter are found, what the artifact records."""

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from exporter.adapter import conversion, is_adapter, read_adapter
from exporter.checkpoint import read_checkpoint
from exporter.cli import main
from exporter.errors import CheckpointRefused, ManifestMismatch, NoWitness
from exporter.pipeline import ExportArgs, export, quantize_artifact, verify
from exporter.witness.adapters import Adapted, together
from recipe.errors import BadInput
from recipe.training.checkpoint import read_whole
from runtime.manifest import hash_file, read_manifest
from tests.hub_cache import as_snapshot
from tests.tiny_checkpoints import write_bert
from tests.zoo.adapters import write_lora
from tests.zoo.weights import FILE

SHORT = 64
Changing = Callable[..., None]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_bert(tmp_path / "base")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "adapter"
    directory.mkdir()
    write_lora(base, directory, ["query", "value"], base_model_name_or_path=str(base))
    return directory


@pytest.fixture
def change(adapter: Path) -> Changing:
    """Sets keys of adapter_config.json."""

    def set_keys(**values: Any) -> None:
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | values))

    return set_keys


def test_what_was_merged_is_in_the_manifest_and_is_verified(
    base: Path,
    adapter: Path,
    change: Changing,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, named = tmp_path / "out", ["--adapter", str(adapter)]
    assert main(["export", str(base), *named, "--max-tokens", "64", "--out", str(out)]) == 0
    manifest = read_manifest(out)
    assert manifest.merged == {
        f"{folder.name}/{name}": hash_file(folder / name)
        for folder, name in (
            (base, FILE),
            (adapter, "adapter_config.json"),
            (adapter, "adapter_model.safetensors"),
        )
    }
    assert "adapter by peft" in (manifest.witness or "")
    assert manifest.origins["merged"] == f"adapter_config.json (LoRA) and its base {base}"
    assert main(["verify", str(out), "--checkpoint", str(adapter)]) == 0
    capsys.readouterr()
    assert main(["verify", str(out), "--checkpoint", str(base)]) == 1
    assert "was made with an adapter" in (output := capsys.readouterr().err)
    assert "name it as --adapter" in output
    assert main(["verify", str(out), *named]) == 1
    assert "no --checkpoint" in capsys.readouterr().err
    assert main(["inspect", str(out)]) == 0
    assert manifest.merged["adapter/adapter_config.json"] in capsys.readouterr().out
    with pytest.raises(CheckpointRefused, match="--adapter"):
        quantize_artifact(out, tmp_path / "int8", "cpu-int8-weights", checkpoint=str(base))
    change(lora_dropout=0.5)
    with pytest.raises(ManifestMismatch, match=r"adapter/adapter_config\.json"):
        verify(out, str(base), None, str(adapter))


def test_an_adapter_that_changes_nothing_is_another_version(
    adapter: Path,
    change: Changing,
    pair_artifact: Path,
    tiny_bert_checkpoint: Path,
    ready_graph: Callable[[Path], None],
    tmp_path: Path,
) -> None:
    """Nobody has to be asked to tell them apart."""
    change(lora_alpha=0)
    ready_graph(pair_artifact)
    out, base = tmp_path / "out", str(tiny_bert_checkpoint)
    before = {path: hash_file(path) for path in (*Path(base).iterdir(), *adapter.iterdir())}
    made = export(base, out, ExportArgs(adapter=str(adapter)))
    plain = read_manifest(pair_artifact)
    assert made.files["model.onnx"] == plain.files["model.onnx"]
    assert (plain.merged, plain.version != made.version) == ({}, True)
    with pytest.raises(CheckpointRefused, match=r"without an adapter.*leave --adapter out"):
        verify(pair_artifact, base, None, str(adapter))
    assert before == {path: hash_file(path) for path in before}


@pytest.mark.heavy
def test_a_quantized_artifact_is_proven_against_both(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    source, quantized = tmp_path / "source", tmp_path / "quantized"
    named = ["--adapter", str(adapter)]
    assert main(["export", str(base), *named, "--out", str(source)]) == 0
    to = ["--target", "cpu-int8-weights", "--out", str(quantized)]
    assert main(["quantize", str(source), *to, "--checkpoint", str(base), *named]) == 0
    assert read_manifest(quantized).merged == read_manifest(source).merged
    assert main(["verify", str(quantized), "--checkpoint", str(base), *named]) == 0


def test_without_peft_nobody_is_a_witness(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(NoWitness, match="peft cannot be imported"):
        export(str(base), tmp_path / "out", ExportArgs(adapter=str(adapter)))
    assert not (tmp_path / "out").exists()


def test_a_witness_that_cannot_load_them_names_the_user_s_folders(
    base: Path, adapter: Path, tmp_path: Path, change: Changing
) -> None:
    change(target_modules=["query"])  # peft leaves the others out
    with pytest.raises(NoWitness, match=r"left out, as no layer wants them: bert.*value"):
        export(str(base), tmp_path / "out", ExportArgs(adapter=str(adapter)))
    change(task_type="NONSENSE")
    with pytest.raises(NoWitness, match=rf"load {base} with the adapter in {adapter}"):
        export(str(base), tmp_path / "out", ExportArgs(adapter=str(adapter)))


@pytest.mark.parametrize("revision", [None, "main", "1" * 40, "v1.0"])
def test_the_base_is_found_by_its_name_on_the_hub(
    revision: str | None,
    base: Path,
    adapter: Path,
    change: Changing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def download(name: str, *, revision: str | None, **_: object) -> str:
        asked.append((name, revision))
        return str(base)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    change(base_model_name_or_path="somebody/base", revision=revision)
    if revision == "v1.0":
        with pytest.raises(CheckpointRefused, match=r"revision = 'v1\.0'.*--adapter"):
            read_checkpoint(str(adapter))
        return
    assert read_checkpoint(str(adapter)).base == base
    assert asked == [("somebody/base", revision if revision and len(revision) == 40 else None)]


@pytest.mark.parametrize("name", ["../gone", "x" * 5000, "a\0b", "no such/base/at all"])
def test_a_base_that_is_nowhere_is_named(name: str, adapter: Path, change: Changing) -> None:
    change(base_model_name_or_path=name)
    with pytest.raises(CheckpointRefused, match=r"adapter"):
        read_checkpoint(str(adapter))
    assert read_checkpoint(str(adapter.parent / "base"), str(adapter)).adapter is not None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"peft_type": "LORA", "r": 1e999}', "[" * 10_000, "\xff"]
)
def test_settings_that_are_none_are_refused_in_words(content: str, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointRefused, match=r"adapter_config\.json"):
        read_checkpoint(str(adapter))


def test_unknown_keys_and_files_are_logged_or_refused(
    base: Path, adapter: Path, change: Changing, capsys: pytest.CaptureFixture[str]
) -> None:
    change(frobnication=1)
    (adapter / "config.json").write_bytes((base / "config.json").read_bytes())
    read_checkpoint(str(base), str(adapter))
    output = capsys.readouterr().err
    assert "frobnication" in output
    assert "config.json" in output
    with pytest.raises(CheckpointRefused, match="frobnication"):
        read_checkpoint(str(base), str(adapter), strict=True)


def test_an_adapter_that_is_nowhere_is_called_one(base: Path) -> None:
    for name in ("../gone", "x" * 5000):
        with pytest.raises(CheckpointRefused, match=r"the adapter '.*found no directory"):
            read_checkpoint(str(base), name)


def test_a_hub_s_snapshots_are_laid_together_by_links(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    """Their files are links that lead out of them."""
    base = as_snapshot(base, tmp_path / "cache")
    adapter = as_snapshot(adapter, tmp_path / "other cache")
    with together(base, base, Adapted(base, adapter)) as (root, place):
        assert root == place
        found = {path.name: path.read_bytes() for path in root.iterdir()}
        held = {path.name: path.read_bytes() for path in (*base.iterdir(), *adapter.iterdir())}
        settings = json.loads(found.pop("adapter_config.json"))
        assert (
            json.loads(held.pop("adapter_config.json")) | {"base_model_name_or_path": str(root)}
            == settings
        )
        assert found == held
    assert not root.exists()


@pytest.mark.parametrize("path", ["/", "..", "a/../..", "1_Pooling/../../base"])
def test_the_witness_writes_into_no_folder_of_the_user(
    path: str, base: Path, adapter: Path, tmp_path: Path
) -> None:
    (base / "modules.json").write_text(json.dumps([{"path": path}]))
    before = sorted(tmp_path.rglob("*"))
    laid = together(base, base, Adapted(base, adapter))
    with pytest.raises(NoWitness, match=r"linked into one folder"), laid:
        raise AssertionError("laid")
    assert sorted(tmp_path.rglob("*")) == before


def test_texts_are_read_in_one_folder(base: Path, adapter: Path) -> None:
    (adapter / "training.json").write_text("{}")
    with pytest.raises(CheckpointRefused, match=rf"found training\.json in {adapter}"):
        read_checkpoint(str(base), str(adapter))


def test_weights_that_cannot_be_read_are_refused(base: Path, adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointRefused, match=r"adapter_model\.safetensors"):
        read_checkpoint(str(base), str(adapter))
    path.unlink()
    with pytest.raises(CheckpointRefused, match=r"found no adapter_model\.safetensors"):
        read_checkpoint(str(base), str(adapter))
    os.mkfifo(path)
    with pytest.raises(CheckpointRefused, match="not a regular file"):
        read_checkpoint(str(base), str(adapter))
    with pytest.raises(CheckpointRefused, match=r"found no adapter_config\.json"):
        read_checkpoint(str(base), str(base))


def test_the_advice_converts_pickled_weights(base: Path, adapter: Path) -> None:
    held = {name: stored.read() for name, stored in read_adapter(adapter).tensors.items()}
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(held, adapter / "adapter_model.bin")
    with pytest.raises(CheckpointRefused) as refusal:
        read_checkpoint(str(base), str(adapter))
    command = conversion(adapter)
    assert str(refusal.value).endswith(command)
    program, option, code = shlex.split(command)
    assert (program, option) == ("python", "-c")
    exec(code, {})
    found = read_adapter(adapter).tensors
    assert {name: stored.read().tolist() for name, stored in found.items()} == {
        name: tensor.tolist() for name, tensor in held.items()
    }


def test_the_recipe_takes_whole_checkpoints(base: Path, adapter: Path) -> None:
    assert is_adapter(adapter)
    with pytest.raises(BadInput, match=rf"found an adapter in {adapter}"):
        read_whole(str(adapter))
    assert read_whole(str(base)).adapter is None
