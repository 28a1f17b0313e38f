"""Layouts of folders beside the zoo's: their messages, and commands that must work."""

import json
import pickle
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from exporter import tokens
from exporter.architectures.config import Config
from exporter.checkpoint import load_model, read_checkpoint
from exporter.draft import draft
from exporter.errors import CheckpointRefused
from exporter.labels import read_labels
from exporter.model_profile import choose_profile
from exporter.nested import nested_checkpoints
from exporter.pipeline import ExportArgs, export, quantize_artifact
from exporter.report import read_report
from exporter.stand_in import own_reading
from exporter.tokens import load_tokenizer
from exporter.witness import rank_witness
from recipe.errors import BadInput
from recipe.training.checkpoint import PairBatcher, load_for_transformers
from runtime.manifest import read_manifest
from runtime.profile import load_target_profile
from tests.hub_cache import as_snapshot
from tests.tiny_checkpoints import write_bert, write_llama

WEIGHTS = "model.safetensors"


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def with_two_labels(directory: Path) -> Path:
    weights = load_file(directory / WEIGHTS)
    head = weights["score.weight"]
    save_file(weights | {"score.weight": torch.cat([head.flip(1), head])}, directory / WEIGHTS)
    edit(directory / "config.json", id2label={"0": "no", "1": "yes"})
    return directory


def with_a_pad_token_past_the_vocabulary(directory: Path) -> Path:
    """Added as transformers' add_special_tokens does, without resizing the embeddings."""
    content = json.loads((directory / "tokenizer.json").read_bytes())
    last = max(content["model"]["vocab"].values())
    token = {"id": last + 1, "content": "[PAD]", "special": True, "normalized": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    edit(directory / "tokenizer.json", added_tokens=[*content["added_tokens"], token | flags])
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (directory / name).is_file():
            edit(directory / name, pad_token="[PAD]")
    edit(directory / "config.json", vocab_size=last + 1)
    return directory


def refusal_text(directory: Path) -> str:
    with pytest.raises(CheckpointRefused) as refused:
        read_checkpoint(str(directory))
    return str(refused.value)


def run(command: str) -> None:
    """A command of python -c in this process, as importing torch anew takes seconds."""
    _, _, code, *arguments = shlex.split(command)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["-c", *arguments])
        exec(code, {})


def shell(command: str) -> None:
    """The same as a user types it."""
    subprocess.run(["bash", "-c", f'python() {{ {sys.executable} "$@"; }}; {command}'], check=True)


@pytest.mark.parametrize(("shards", "execute"), [(1, run), (2, shell)])
def test_the_command_for_pickles_makes_a_checkpoint(
    tmp_path: Path, shards: int, execute: Callable[[str], None]
) -> None:
    directory = write_llama(tmp_path / "it's a $folder [1]")
    wanted = load_model(read_checkpoint(str(directory))).state_dict()
    tensors = load_file(directory / WEIGHTS)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].t().contiguous().t()
    names = sorted(tensors)
    for number in range(shards):
        part = {name: tensors[name] for name in names[number::shards]}
        name = "pytorch_model.bin" if shards == 1 else f"pytorch_model-{number}-of-2.bin"
        torch.save(part, directory / name)
    torch.save({}, directory / "training_args.bin")
    (directory / WEIGHTS).unlink()
    message = refusal_text(directory)
    assert "found pytorch_model" in message
    execute(message[message.index("python -c") :])
    found = load_model(read_checkpoint(str(directory))).state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def _ran(path: Path) -> None:
    path.touch()


class _Harmful:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> object:
        return _ran, (self._path,)


def test_code_in_a_pickle_is_not_run_by_the_command(tmp_path: Path) -> None:
    directory = write_llama(tmp_path / "llama")
    (directory / WEIGHTS).unlink()
    torch.save({"score.weight": _Harmful(tmp_path / "ran")}, directory / "pytorch_model.bin")
    message = refusal_text(directory)
    with pytest.raises(pickle.UnpicklingError):
        run(message[message.index("python -c") :])
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_s_repository_in_the_hub_s_cache_is_taken(tmp_path: Path) -> None:
    wanted = load_model(read_checkpoint(str(write_llama(tmp_path / "llama")))).state_dict()
    snapshot = as_snapshot(tmp_path / "llama", tmp_path / "hub")
    repository = snapshot.parents[1]
    found = load_model(read_checkpoint(str(repository))).state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    (snapshot / WEIGHTS).unlink()
    assert "hf download org/name --local-dir DIR" in refusal_text(repository)
    (repository / "snapshots" / ("d" * 40)).mkdir()
    assert "name one of them" in refusal_text(repository)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], None),
        (["checkpoint-9", "checkpoint-10"], "the newest in {}/checkpoint-10:"),
        (["epoch_0_step_10", "epoch_1_step_5"], "the newest in {}/epoch_1_step_5:"),
        (["run/checkpoint-1"], "a checkpoint is in {}/run/checkpoint-1:"),
        (["b", "a"], "checkpoints are in {0}/a, {0}/b:"),
        ([".hidden/checkpoint-1"], None),
    ],
)
def test_the_newest_checkpoint_is_the_one_of_the_highest_numbers(
    tmp_path: Path, names: list[str], message: str | None
) -> None:
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").touch()
    found = nested_checkpoints(tmp_path)
    if message is None:
        assert found is None
    else:
        assert message.format(tmp_path) in str(found)


def test_links_below_a_folder_end_and_do_not_lead_out(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    (outside / "config.json").touch()
    folder.mkdir()
    (folder / "itself").symlink_to(folder)
    (folder / "LATEST").symlink_to(outside)
    assert nested_checkpoints(folder) is None
    (folder / "epoch_3").mkdir()
    (folder / "epoch_3" / "config.json").touch()
    (folder / "LATEST").unlink()
    (folder / "LATEST").symlink_to("epoch_3")
    assert f"is in {folder}/epoch_3:" in str(nested_checkpoints(folder))


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ({"num_labels": 1}, 1),
        ({"id2label": {"0": "LABEL_0"}}, 1),
        ({}, 2),
        ({"id2label": None, "num_labels": None}, 2),
        ({"id2label": {"0": "not_relevant", "1": "relevant"}}, 2),
        ({"id2label": {"0": "a", "1": "b"}, "problem_type": "single_label_classification"}, 2),
        ({"id2label": {"0": 1, "1": None}}, 2),
    ],
)
def test_labels_are_one_or_two(config: Mapping[str, object], count: int) -> None:
    assert read_labels(Config(config)).count == count


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_labels": 3}, "num_labels = 3"),
        ({"num_labels": True}, "num_labels = True"),
        ({"num_labels": 0}, "num_labels = 0"),
        ({"id2label": ["a"]}, "id2label"),
        ({"id2label": {"0": "entailment", "1": "not_entailment"}}, "label 0 'entailment'"),
        ({"id2label": {"0": "Yes", "1": "maybe"}}, "label 0 'Yes'"),
        ({"num_labels": 2, "problem_type": "regression"}, "problem_type"),
    ],
)
def test_labels_of_which_no_logit_is_the_score_are_refused(
    config: Mapping[str, object], message: str
) -> None:
    with pytest.raises(CheckpointRefused) as refused:
        read_labels(Config(config))
    assert message in str(refused.value)


def test_two_labels_are_logged_and_witnessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = read_checkpoint(str(with_two_labels(write_llama(tmp_path / "llama"))))
    assert "two labels ('no' and 'yes'); the exported logit is logit[1]" in capsys.readouterr().err
    found = draft(
        checkpoint,
        choose_profile(None, checkpoint.architecture, checkpoint.kind),
        load_target_profile("cpu-fp32"),
    )
    assert found.manifest.origins["logit"] == "two labels of config.json: logit[1] - logit[0]"
    assert found.manifest.activation == "sigmoid"
    where = checkpoint.root, checkpoint.directory, checkpoint.config
    row, logit = rank_witness(*where, found.template).score("query", "passage")
    own = own_reading(load_model(checkpoint), found.tokenizer, found.manifest, "to compare")
    np.testing.assert_allclose(own.values(row), logit, atol=1e-5)
    assert logit.shape == (1,)


def test_the_recipe_trains_one_label_and_reads_wrappers_names(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(str(with_two_labels(write_llama(tmp_path / "two"))))
    with pytest.raises(BadInput, match="found 2 labels"):
        load_for_transformers(checkpoint)
    directory = write_bert(tmp_path / "bert")
    tensors = load_file(directory / WEIGHTS)
    save_file({f"_orig_mod.{name}": one for name, one in tensors.items()}, directory / WEIGHTS)
    model = load_for_transformers(read_checkpoint(str(directory)))
    assert all(torch.equal(one, tensors[name]) for name, one in model.named_parameters())


def test_a_pad_token_without_an_embedding_stays_out_of_the_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = with_a_pad_token_past_the_vocabulary(write_llama(tmp_path / "llama"))
    checkpoint = read_checkpoint(str(directory))
    found = draft(
        checkpoint,
        choose_profile(None, checkpoint.architecture, checkpoint.kind),
        load_target_profile("cpu-fp32"),
    )
    assert "'[PAD]' has no row in the embeddings" in capsys.readouterr().err
    specials = found.manifest.special_tokens
    assert specials.pad < checkpoint.config["vocab_size"]
    assert found.tokenizer.reads_alone("query", "a [PAD] in it")
    assert "[PAD]" not in found.tokenizer.added_tokens()
    found.tokenizer.save(tmp_path / "tokenizer")
    for path in (tmp_path / "tokenizer").iterdir():
        assert b"[PAD]" not in path.read_bytes(), path
    batch = PairBatcher(checkpoint, "{query}{passage}", 64)([("[PAD]", "a")])
    assert int(batch["input_ids"].max()) < checkpoint.config["vocab_size"]


@pytest.mark.heavy
def test_a_pad_token_without_an_embedding_is_proven_as_text(tmp_path: Path) -> None:
    directory = with_a_pad_token_past_the_vocabulary(write_llama(tmp_path / "llama"))
    export(str(directory), tmp_path / "out", ExportArgs())
    quantize_artifact(tmp_path / "out", tmp_path / "quantized", "cpu-int8")


def flattened(directory: Path) -> Path:
    weights = load_file(directory / WEIGHTS)
    weights["classifier.weight"] *= 1e-4
    save_file(weights, directory / WEIGHTS)
    return directory


def test_flat_scores_are_refused_where_strict(tmp_path: Path) -> None:
    directory = flattened(write_bert(tmp_path / "bert"))
    with pytest.raises(CheckpointRefused, match=r"barely differ.* apart.*--strict"):
        export(str(directory), tmp_path / "out", ExportArgs(strict=True))


@pytest.mark.heavy
def test_flat_scores_are_logged_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = flattened(write_bert(tmp_path / "bert"))
    export(str(directory), tmp_path / "out", ExportArgs())
    assert "own scores barely differ" in capsys.readouterr().err
    assert "barely differ" in str(read_report(tmp_path / "out").flat)
    assert read_manifest(tmp_path / "out").golden_tolerance < 1e-3


@pytest.mark.parametrize(
    ("here", "message"),
    [
        ([], "spm.model is read by the package sentencepiece; install the extra `export`"),
        (["sentencepiece"], "by the package protobuf"),
        (["sentencepiece", "protobuf"], "spm.model is not a sentencepiece model"),
    ],
)
def test_a_sentencepiece_model_that_cannot_be_read_gets_the_right_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: list[str], message: str
) -> None:
    class Package:
        def __init__(self, name: str) -> None:
            self.name = name

    def broken(*_: object, **__: object) -> None:
        raise ValueError("`tiktoken` is required to read a `tiktoken` file.")

    (tmp_path / "spm.model").write_bytes(b"\n\0")
    monkeypatch.setattr(tokens.importlib.metadata, "distributions", lambda: map(Package, here))
    monkeypatch.setattr(tokens.AutoTokenizer, "from_pretrained", broken)
    with pytest.raises(CheckpointRefused, match=re.escape(message)):
        load_tokenizer(tmp_path, None)
