"""Sizes in config.json against the weights: refused by name before anything is allocated."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from exporter import checkpoint as checkpoint_module
from exporter.checkpoint import load_model, read_checkpoint
from exporter.errors import CheckpointRefused
from tests.tiny_checkpoints import write_bert, write_llama, write_sentence_transformers
from tests.tiny_encoders import write_deberta, write_modernbert, write_roberta, write_xlm_roberta

WRITERS: dict[str, Callable[[Path], Path]] = {
    "llama": write_llama,
    "bert": write_bert,
    "bert embedder": write_sentence_transformers,
    "xlm-roberta": write_xlm_roberta,
    "roberta": write_roberta,
    "modernbert": write_modernbert,
    "deberta": write_deberta,
}
NO_SIZE: tuple[Any, ...] = (0, -1, True, False, 64.0, "64", [64], {}, [])
HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
OTHER_SIZES = (1, 7, 10**9, 1 << 62, 10**30)
SIZES = ("hidden_size", "vocab_size", "intermediate_size", "num_hidden_layers")
NO_NUMBER: tuple[Any, ...] = (0, -1e-5, True, "NaN", "1e-5", [1], {}, 1e300, 10**400)
NO_FLAG: tuple[Any, ...] = (1, 0, "false", [], {})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each family. Copy it before you change its weights."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: write(folder / name) for name, write in WRITERS.items()}


def load(directory: Path) -> Any:
    return load_model(read_checkpoint(str(directory)))


def refusal(directory: Path, original: dict[str, Any], changes: dict[str, Any]) -> str:
    """The refusal of the config with `changes`, empty if it is accepted; the file is restored."""
    path = directory / "config.json"
    path.write_text(json.dumps(original | changes))
    try:
        load(directory)
    except CheckpointRefused as error:
        return str(error)
    finally:
        path.write_text(json.dumps(original))
    return ""


def refused_otherwise(
    directory: Path, cases: Iterator[tuple[str, Any]], inside: str | None = None
) -> list[Any]:
    """The cases (field, value) whose refusal lacks the field."""
    original = json.loads((directory / "config.json").read_bytes())
    missed = []
    for field, value in cases:
        changes = {field: value}
        if inside is not None:
            changes = {inside: original[inside] | changes}
        if field not in (message := refusal(directory, original, changes)) or len(message) > 500:
            missed.append((field, value, message))
    return missed


def every(fields: tuple[str, ...], values: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    return ((field, value) for field in fields for value in values)


@pytest.mark.parametrize("family", WRITERS)
def test_every_size_is_compared_with_the_weights(
    checkpoints: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(checkpoint: object) -> Any:
        raise AssertionError("it was built")

    monkeypatch.setattr(checkpoint_module, "_build", build)
    sizes = (*SIZES, *(() if family == "modernbert" else ("max_position_embeddings",)))
    if family in ("llama", "deberta"):  # whose positions are no weights
        sizes = SIZES
    cases = [*every((*sizes, "num_attention_heads"), NO_SIZE), *every(sizes, OTHER_SIZES)]
    cases += [*every(("max_position_embeddings",), NO_SIZE), *every(sizes, (None,))]
    cases += every(("num_attention_heads",), (None, 7, 10**9, 1 << 62))
    assert refused_otherwise(checkpoints[family], iter(cases)) == []


def test_sizes_of_one_family_are_compared(checkpoints: dict[str, Path]) -> None:
    llama = [
        *every(("head_dim", "num_key_value_heads"), (*NO_SIZE, 1, 8, 32, 10**9)),
        *every(("num_attention_heads",), (1, 2, 8)),
    ]
    assert refused_otherwise(checkpoints["llama"], iter(llama)) == []
    typed = (*NO_SIZE, 1, 3, 10**9)
    assert refused_otherwise(checkpoints["bert"], every(("type_vocab_size",), typed)) == []
    padded = (*NO_SIZE[1:], 513, 10**9)
    for family in ("xlm-roberta", "roberta"):
        cases = [*every(("type_vocab_size",), (*NO_SIZE, 2, 10**9))]
        cases += every(("pad_token_id",), padded)
        assert refused_otherwise(checkpoints[family], iter(cases)) == []
    numbers = ("position_buckets", "max_relative_positions")
    deberta = [
        *every(numbers, ("16", 16.0, True, [16], -2)),
        *every(("position_buckets",), (1, 15, 32, 0, 10**9)),
        *every(("max_position_embeddings",), (10**9, 1 << 62)),
        *every(("type_vocab_size",), (1, 10**9, -1, True, "1")),
    ]
    assert refused_otherwise(checkpoints["deberta"], iter(deberta)) == []
    kinds = ("global_attn_every_n_layers", "local_attention", "layer_types")
    assert refused_otherwise(checkpoints["modernbert"], every(kinds, (-1, True, "2", {}))) == []


def test_other_numbers_are_refused_by_name(checkpoints: dict[str, Path]) -> None:
    llama = checkpoints["llama"]
    fields = ("rope_theta", "rms_norm_eps", "temperature")
    assert refused_otherwise(llama, every(fields, NO_NUMBER)) == []
    flags = ("attention_bias", "mlp_bias", "is_causal", "use_bidirectional_attention")
    assert refused_otherwise(llama, every(flags, NO_FLAG)) == []
    words = ("hidden_act", "pooling", "sliding_window", "rope_scaling", "rope_parameters")
    assert refused_otherwise(llama, every(words, ("other", [1], 7))) == []
    scaling = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    assert refused_otherwise(llama, every(scaling, NO_NUMBER), inside="rope_scaling") == []
    equal = every(("low_freq_factor",), (4.0, 5.0))
    assert refused_otherwise(llama, equal, inside="rope_scaling") == []
    assert refused_otherwise(llama, every(("rms_norm_eps",), (1.5, 10**12))) == []
    for family in ("bert", "xlm-roberta", "deberta"):
        cases = [
            *every(("layer_norm_eps",), (*NO_NUMBER, 10**12)),
            *every(("hidden_act",), ("other", [1])),
        ]
        assert refused_otherwise(checkpoints[family], iter(cases)) == []
    modern = [
        *every(("norm_eps", "global_rope_theta", "local_rope_theta"), NO_NUMBER),
        *every(("norm_bias", "mlp_bias", "classifier_bias", "attention_bias"), NO_FLAG),
        *every(("rope_parameters", "hidden_activation", "classifier_pooling"), ("other", [1])),
    ]
    assert refused_otherwise(checkpoints["modernbert"], iter(modern)) == []


@pytest.mark.parametrize("family", ["llama", "bert", "xlm-roberta", "modernbert", "deberta"])
def test_a_head_of_other_labels_is_refused(
    checkpoints: dict[str, Path], family: str, tmp_path: Path
) -> None:
    assert refused_otherwise(checkpoints[family], every(("num_labels",), (*NO_SIZE, 2))) == []
    directory = tmp_path / "two"
    shutil.copytree(checkpoints[family], directory)
    weights = load_file(directory / "model.safetensors")
    (name,) = (n for n in weights if n in HEADS)
    save_file(weights | {name: weights[name].repeat(2, 1)}, directory / "model.safetensors")
    with pytest.raises(CheckpointRefused, match=r"num_labels = 1, the weights have 2 \("):
        load(directory)


def test_layers_are_counted(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    original = json.loads((checkpoints["llama"] / "config.json").read_bytes())
    fewer = refusal(checkpoints["llama"], original, {"num_hidden_layers": 1})
    assert "num_hidden_layers = 1, the weights have 2 layers" in fewer
    assert "unexpected: model.layers.1." in fewer
    more = refusal(checkpoints["llama"], original, {"num_hidden_layers": 10**9})
    assert "the weights have 2 layers (missing: model.layers.2.)" in more
    directory = tmp_path / "gap"
    shutil.copytree(checkpoints["llama"], directory)
    weights = load_file(directory / "model.safetensors")
    moved = {name.replace("layers.1.", "layers.5."): tensor for name, tensor in weights.items()}
    save_file(moved, directory / "model.safetensors")
    with pytest.raises(CheckpointRefused, match=r"missing: model\.layers\.1\..*unexpected: model"):
        load(directory)
    many = {f"model.layers.{n}.input_layernorm.weight": torch.ones(1) for n in range(2, 2000)}
    save_file(weights | many, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(original | {"num_hidden_layers": 2000}))
    with pytest.raises(CheckpointRefused, match="num_hidden_layers = 2000, wanted 1024"):
        load(directory)


def test_tensors_of_other_names_types_and_shapes_are_named(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(checkpoints["llama"], tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    for changed, message in (
        ({name: weights[name].int()}, f"{name} as I32"),
        ({name: weights[name][:, :7].clone()}, rf"{name} \[64, 7\] \(wanted \[64, 128\]\)"),
        ({"other_head.weight": torch.ones(2, 2)}, r"unexpected: other_head\.weight"),
        ({"model.embed_tokens.weight": torch.ones(1 << 20, 0)}, "vocab_size = .*have 0"),
        ({"model.embed_tokens.weight": torch.ones(64)}, "vocab_size = .*have 0"),
    ):
        save_file(weights | changed, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointRefused, match=message):
            load(tmp_path)
    prefixed = {f"wrapped.{name}": tensor for name, tensor in weights.items()}
    save_file(prefixed, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointRefused, match=r"missing: model\.layers.*found: wrapped\."):
        load(tmp_path)


def header(tensors: dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(tensors).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def one(start: int, end: int, shape: list[int]) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 7,
        header({}, length=1 << 60),
        header({"a": one(0, 4, [1])}, b"\0" * (5 << 20), length=5 << 20),
        header({"a": one(0, 8, [2]), "b": one(4, 12, [2])}, b"\0" * 12),
        header({"a": one(0, 1 << 50, [1 << 48])}),
        header({"a": one(0, 4, [1 << 62, 1 << 62])}, b"\0" * 4),
        header({"a": one(0, 4, [-1])}, b"\0" * 4),
        header({"a": one(0, 8, [1])}, b"\0" * 8),
    ],
)
def test_headers_that_lie_are_refused(
    checkpoints: dict[str, Path], tmp_path: Path, content: bytes
) -> None:
    shutil.copytree(checkpoints["llama"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointRefused, match=r"weights in model\.safetensors: "):
        load(tmp_path)


def test_an_index_names_each_tensor_once(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(checkpoints["llama"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").rename(tmp_path / "a.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"score.weight": "a", "x": "a", "score.weight": "b"}}')
    with pytest.raises(CheckpointRefused, match=r"index\.json cannot be used.*'score\.weight' twi"):
        load(tmp_path)
    index.write_text("[" * 100_000)
    with pytest.raises(CheckpointRefused, match=r"index\.json cannot be used"):
        load(tmp_path)
