"""Files and keys of a checkpoint's folder: honoured, without effect, logged or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from exporter.checkpoint import outline, read_checkpoint
from exporter.errors import CheckpointRefused
from exporter.unread_settings import refuse_unread_keys
from tests.tiny_checkpoints import write_bert, write_sentence_transformers


def read(directory: Path, *, strict: bool = False) -> None:
    checkpoint = read_checkpoint(str(directory), strict=strict)
    outline(checkpoint)
    refuse_unread_keys(checkpoint.config, strict=strict)


def change(path: Path, **values: Any) -> None:
    held = json.loads(path.read_bytes()) if path.exists() else {}
    path.write_text(json.dumps(held | values))


@pytest.mark.parametrize(
    "name",
    [
        "adapter_config.json",
        "adapter_model.safetensors",
        "preprocessor_config.json",
        "processor_config.json",
        "router_config.json",
    ],
)
def test_what_a_loader_would_read_besides_is_refused(name: str, tmp_path: Path) -> None:
    write_bert(tmp_path)
    (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointRefused, match=rf"found {name}"):
        read(tmp_path)


def test_what_changes_nothing_is_taken_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bert(tmp_path)
    for name in ("README.md", "training_args.bin", ".gitattributes", "model.py", "optimizer.pt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "runs").mkdir()
    change(tmp_path / "config.json", torch_dtype="float16", use_cache=True, pruned_heads={})
    read(tmp_path, strict=True)
    assert capsys.readouterr().err == ""


def test_what_nobody_knows_is_logged_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bert(tmp_path)
    (tmp_path / "frobnication.json").write_text("{}")
    read(tmp_path)
    assert "unknown file in" in (output := capsys.readouterr().err)
    assert "frobnication.json" in output
    with pytest.raises(CheckpointRefused, match=r"frobnication\.json.*--strict"):
        read(tmp_path, strict=True)
    (tmp_path / "frobnication.json").unlink()
    change(tmp_path / "config.json", frobnicate=1)
    read(tmp_path)
    assert "unknown key in config.json: frobnicate" in capsys.readouterr().err
    with pytest.raises(CheckpointRefused, match=r"frobnicate.*--strict"):
        read(tmp_path, strict=True)


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer_config.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
        "2_Normalize/config.json",
    ],
)
def test_an_unknown_key_of_sentence_transformers_is_logged_or_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sentence_transformers(tmp_path)
    (tmp_path / "2_Normalize").mkdir()
    read(tmp_path, strict=True)
    assert capsys.readouterr().err == ""
    change(tmp_path / name, frobnicate=1)
    read(tmp_path)
    assert f"unknown key in {name}: frobnicate" in capsys.readouterr().err
    with pytest.raises(CheckpointRefused, match=r"frobnicate.*--strict"):
        read(tmp_path, strict=True)


def test_keys_of_files_that_nobody_reads_are_not_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bert(tmp_path)
    change(tmp_path / "sentence_bert_config.json", frobnicate=1)
    read(tmp_path, strict=True)
    assert capsys.readouterr().err == ""


def test_every_key_of_the_families_is_known(checkpoints: dict[str, Path]) -> None:
    for directory in checkpoints.values():
        read(directory, strict=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pruned_heads", {"0": [1]}),
        ("add_cross_attention", True),
        ("is_encoder_decoder", True),
        ("chunk_size_feed_forward", 8),
        ("sliding_window", 64),
    ],
)
def test_a_key_that_would_change_scores_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    write_bert(tmp_path)
    change(tmp_path / "config.json", **{key: value})
    with pytest.raises(CheckpointRefused, match=f"config.json has {key} = "):
        read(tmp_path)


@pytest.mark.parametrize(
    ("modules", "settings", "output"),
    [
        (
            ["Transformer", "Dense"],
            {"model_type": "CrossEncoder"},
            "the modules Transformer, Dense",
        ),
        (["Transformer", "Pooling"], {}, "which is an embedder's"),
        (
            ["Transformer"],
            {
                "model_type": "CrossEncoder",
                "prompts": {"web": "w: "},
                "default_prompt_name": "web",
            },
            "default_prompt_name = 'web'",
        ),
        (
            ["Transformer"],
            {"model_type": "CrossEncoder", "prompts": ["a"], "default_prompt_name": "a"},
            r"got `array` - at `\$\.prompts`",
        ),
        (
            ["Transformer"],
            {"model_type": "CrossEncoder", "prompts": {}, "default_prompt_name": ["a"]},
            r"got `array` - at `\$\.default_prompt_name`",
        ),
    ],
)
def test_more_than_a_classifier_is_refused(
    modules: list[str], settings: dict[str, Any], output: str, tmp_path: Path
) -> None:
    write_bert(tmp_path)
    listed = [
        {"idx": i, "name": str(i), "path": "", "type": f"sentence_transformers.{name}"}
        for i, name in enumerate(modules)
    ]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    task = {"transformer_task": "sequence-classification"}
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(task))
    with pytest.raises(CheckpointRefused, match=output):
        read(tmp_path)
