"""Reading checkpoints, and every refusal by name."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from exporter.checkpoint import load_model, probe, read_checkpoint
from exporter.errors import AttentionMismatch, CheckpointRefused
from exporter.locating import HUB_FILES, HUB_IGNORED, find_checkpoint
from exporter.tokens import CheckpointTokenizer, load_tokenizer
from tests.hub_cache import as_snapshot
from tests.tiny_checkpoints import write_bert, write_llama


def load(directory: Path) -> Any:
    return load_model(read_checkpoint(str(directory)))


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_bytes()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pooling": "weighted"}, "pooling = 'weighted'"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ({"num_labels": 2}, "num_labels = 2"),
        ({"id2label": {"0": "no", "1": "yes"}}, "num_labels = 2"),
        ({"id2label": "absent"}, "num_labels = 2"),
        ({"model_type": "llama_nemotron_vl_rerank"}, "vision-language"),
        ({"vision_config": {}}, "vision-language"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised"),
        ({"architectures": ["GPT2Model"]}, "GPT2Model"),
        ({"architectures": "absent"}, "architecture none"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope_type = 'longrope'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn with mscale = None"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"is_causal": True, "use_bidirectional_attention": True}, "contradict"),
        ({"hidden_size": "absent"}, "hidden_size"),
        ({"rope_scaling": [1]}, "rope_scaling = [1]"),
        ({"max_position_embeddings": None}, "'max_position_embeddings'"),
        ({"architectures": "LlamaModel"}, "architectures = 'LlamaModel'"),
        ({"architectures": [1]}, "architectures = [1]"),
        ({"id2label": 5}, "id2label = 5"),
        ({"temperature": 0}, "temperature = 0"),
        ({"temperature": "hot"}, "temperature = 'hot'"),
        (
            {
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
                "rope_theta": 5e5,
                "rope_scaling": None,
            },
            "rope_theta",
        ),
        (
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"rope_type": "llama3"}},
            "rope_type",
        ),
    ],
)
def test_refusals_of_a_llama_name_the_cause(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    write_llama(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(CheckpointRefused) as refused:
        load(tmp_path)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_act": "swish"}, "hidden_act = 'swish'"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"is_decoder": True}, "is_decoder = True"),
        ({"type_vocab_size": 1}, "type_vocab_size = 1"),
        ({"pooling": "avg"}, "pooling = 'avg'"),
    ],
)
def test_refusals_of_a_bert_name_the_cause(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    write_bert(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(CheckpointRefused) as refused:
        load(tmp_path)
    assert named in str(refused.value)


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    write_llama(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointRefused, match="convert to safetensors"):
        load(tmp_path)


def test_broken_safetensors_are_named(tmp_path: Path) -> None:
    write_llama(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a header")
    with pytest.raises(CheckpointRefused, match=r"model\.safetensors"):
        load(tmp_path)


def test_a_directory_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match=r"no config\.json"):
        read_checkpoint(str(tmp_path))


def test_shards_give_the_weights_of_a_single_file(tmp_path: Path) -> None:
    whole, parts = write_llama(tmp_path / "whole"), write_llama(tmp_path / "parts")
    weights = load_file(parts / "model.safetensors")
    (parts / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: weights[name] for name in held}, parts / file)
    index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
    (parts / "model.safetensors.index.json").write_text(json.dumps(index))
    found, wanted = load(parts).state_dict(), load(whole).state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    (parts / "b.safetensors").unlink()
    with pytest.raises(CheckpointRefused, match=r"b\.safetensors"):
        load(parts)


def test_bfloat16_weights_are_widened_and_old_constants_ignored(tmp_path: Path) -> None:
    write_llama(tmp_path)
    weights = {k: v.bfloat16() for k, v in load_file(tmp_path / "model.safetensors").items()}
    constant = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    save_file(weights | constant, tmp_path / "model.safetensors")
    model = load(tmp_path)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert torch.equal(model.score.weight, weights["score.weight"].float())


@pytest.mark.parametrize(
    ("changes", "causal"),
    [
        ({}, False),
        ({"is_causal": False}, False),
        ({"is_causal": True}, True),
        ({"use_bidirectional_attention": False}, True),
        ({"use_bidirectional_attention": True}, False),
    ],
)
def test_the_direction_is_the_configs_and_probed(
    tmp_path: Path, changes: dict[str, Any], causal: bool
) -> None:
    model = load(write_llama(tmp_path, **changes))
    assert model.causal is causal
    probe(model, 300)
    body = model.body
    honest = body.forward
    body.forward = lambda *inputs: _with(body, not causal, honest, inputs)
    with pytest.raises(AttentionMismatch, match="bidirectional"):
        probe(model, 300)


def _with(body: Any, causal: bool, forward: Any, inputs: Any) -> torch.Tensor:
    """States of a body that silently reads in another direction than it says."""
    output, body.causal = body.causal, causal
    try:
        return forward(*inputs)
    finally:
        body.causal = output


def test_a_hub_id_fetches_data_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def download(
        name: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]
    ) -> str:
        asked[name, revision] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    commit = "1c0d1856f3fb595b2dda98d4b61061fa6d782d51"
    for source in ("nvidia/llama-3.2-nv-rerankqa-1b-v2", f"someone/model@{commit}"):
        assert find_checkpoint(source) == tmp_path
    assert list(asked) == [("nvidia/llama-3.2-nv-rerankqa-1b-v2", None), ("someone/model", commit)]
    for patterns in asked.values():
        assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in patterns)
    with pytest.raises(CheckpointRefused, match=r"found no directory .*, wanted"):
        find_checkpoint("someone/model@main")


def test_of_a_hub_id_comes_what_is_read_and_nothing_heavy_besides() -> None:
    read = {
        "config.json",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "modules.json",
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
        "0_Transformer/config.json",
        "0_Transformer/vocab.txt",
        "tokenizer.json",
        "vocab.txt",
        "merges.txt",
        "sentencepiece.bpe.model",
        "spm.model",
        "tokenizer.model",
        "chat_template.jinja",
        "additional_chat_templates/rerank.jinja",
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
    }
    unread = {
        "pytorch_model.bin",
        "onnx/model.onnx",
        "onnx/tokenizer.json",
        "openvino/openvino_model.bin",
        "checkpoint-500/model.safetensors",
        "runs/checkpoint-500/optimizer.pt",
        "consolidated.safetensors",
        "original/consolidated.00.pth",
        "model.py",
        "tf_model.h5",
        "README.md",
    }
    taken = huggingface_hub.utils.filter_repo_objects(
        sorted(read | unread), allow_patterns=HUB_FILES, ignore_patterns=HUB_IGNORED
    )
    assert set(taken) == read


def test_a_hub_that_cannot_be_reached_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, **_: object) -> str:
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CheckpointRefused, match="download the checkpoint elsewhere"):
        find_checkpoint("nvidia/llama-nemotron-rerank-1b-v2")


@pytest.mark.parametrize("source", ["/no/such/checkpoint", "./nosuch", "../nosuch"])
def test_a_name_that_is_neither_is_refused(source: str) -> None:
    with pytest.raises(CheckpointRefused, match=r"found no directory .*, wanted"):
        find_checkpoint(source)


@pytest.mark.parametrize(
    "text", [b"{", b"{}", b'{"weight_map": {"a": 1}}', b'{"weight_map": "\xff"}']
)
def test_an_index_that_cannot_be_used_is_named(tmp_path: Path, text: bytes) -> None:
    write_llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_bytes(text)
    with pytest.raises(CheckpointRefused, match=r"index\.json"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["quantization_config", "vision_config"])
def test_what_is_null_is_not_set(tmp_path: Path, name: str) -> None:
    write_llama(tmp_path)
    edit_config(tmp_path, **{name: None})
    load(tmp_path)


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/passwd", "..", "a\0", "\ud800"])
def test_shards_outside_the_checkpoint_are_not_opened(tmp_path: Path, shard: str) -> None:
    write_llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    index = {"weight_map": {"score.weight": shard}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointRefused, match="name of a file in the checkpoint"):
        load(tmp_path)


def test_a_tensor_comes_from_the_shard_that_the_index_names(tmp_path: Path) -> None:
    write_llama(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    save_file(weights, tmp_path / "a.safetensors")
    save_file({"score.weight": weights["score.weight"] + 1}, tmp_path / "b.safetensors")
    index = {"weight_map": dict.fromkeys(weights, "a.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(load(tmp_path).score.weight, weights["score.weight"].float())


def test_weights_that_are_no_numbers_are_not_taken_for_a_causal_model(tmp_path: Path) -> None:
    write_llama(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"] *= float("nan")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointRefused, match="NaN or infinity"):
        probe(load(tmp_path), 100)


def test_a_snapshot_in_the_hub_s_cache_is_taken(tmp_path: Path) -> None:
    """Every file is a link to ../../blobs."""
    wanted = load(write_llama(tmp_path / "llama")).state_dict()
    snapshot = as_snapshot(tmp_path / "llama", tmp_path / "hub")
    found = load(snapshot).state_dict()
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        name: tensor.tolist() for name, tensor in wanted.items()
    }
    CheckpointTokenizer(load_tokenizer(snapshot, "llama_bidirec"), snapshot, None, 16).save(
        tmp_path / "tokenizer"
    )
    assert (tmp_path / "tokenizer" / "tokenizer.json").is_file()
    assert not (tmp_path / "tokenizer" / "tokenizer.json").is_symlink()


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]
)
@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_never_ends_is_refused(
    tmp_path: Path, name: str, put: Callable[[Path], object]
) -> None:
    directory = write_llama(tmp_path / "llama")
    (directory / name).unlink(missing_ok=True)
    put(directory / name)
    with pytest.raises(CheckpointRefused, match=f"found {name} .* not a regular file"):
        read_checkpoint(str(directory))


def test_a_config_of_any_size_is_refused_unread(tmp_path: Path) -> None:
    directory = write_llama(tmp_path)
    os.truncate(directory / "config.json", 1 << 40)
    with pytest.raises(CheckpointRefused, match=f"has {1 << 40} bytes"):
        read_checkpoint(str(directory))
