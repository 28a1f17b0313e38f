"""sentence-transformers' files: what is read from them, and what is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from exporter.checkpoint import load_model, read_checkpoint
from exporter.embedding_files import VectorFacts
from exporter.errors import CheckpointRefused
from exporter.sentence_files import TextFacts
from tests.tiny_checkpoints import (
    write_llama,
    write_llama_embedder,
    write_sentence_transformers,
)

MODULE = "sentence_transformers.sentence_transformer.modules.{}"


def facts(directory: Path) -> VectorFacts | None:
    return read_checkpoint(str(directory)).vectors


def texts(directory: Path) -> TextFacts:
    return read_checkpoint(str(directory)).texts


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | values))


def write_modules(directory: Path, *types: str) -> None:
    folders = ["", "1_Pooling", "2_Rest", "3_Rest"]
    modules = [
        {"idx": i, "name": str(i), "path": folders[i], "type": t} for i, t in enumerate(types)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize(("word", "pooling"), [("mean", "avg"), ("cls", "cls")])
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_and_normalisation_are_the_modules(
    tmp_path: Path, word: str, pooling: str, normalize: bool
) -> None:
    write_sentence_transformers(tmp_path, pooling=word, normalize=normalize)
    assert facts(tmp_path) == VectorFacts(pooling, normalize, {})
    assert texts(tmp_path) == TextFacts(256, lower_case=False)


def test_what_version_6_writes_means_the_same(tmp_path: Path) -> None:
    write_sentence_transformers(tmp_path)
    names = ("transformer.Transformer", "pooling.Pooling", "normalize.Normalize")
    write_modules(tmp_path, *(MODULE.format(name) for name in names))
    pooling = {"embedding_dimension": 64, "pooling_mode": "cls", "include_prompt": True}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    task = {"transformer_task": "feature-extraction"}
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(task))
    change(tmp_path / "tokenizer_config.json", model_max_length=128)
    assert facts(tmp_path) == VectorFacts("cls", True, {})
    assert texts(tmp_path) == TextFacts(128, lower_case=False)


def test_a_tokenizer_without_a_limit_lowers_nothing(tmp_path: Path) -> None:
    write_sentence_transformers(tmp_path)
    (tmp_path / "sentence_bert_config.json").unlink()
    for value in (None, int(1e30)):
        change(tmp_path / "tokenizer_config.json", model_max_length=value)
        assert texts(tmp_path) == TextFacts(None, lower_case=False)


def test_the_transformer_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    write_sentence_transformers(tmp_path)
    (tmp_path / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).rename(tmp_path / "0_Transformer" / name)
    modules = json.loads((tmp_path / "modules.json").read_bytes())
    modules[0]["path"] = "0_Transformer"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    checkpoint = read_checkpoint(str(tmp_path))
    assert checkpoint.directory == tmp_path / "0_Transformer"
    assert load_model(checkpoint).dimensions == 64


@pytest.mark.parametrize(
    ("prompts", "prefixes"),
    [
        (
            {"query": "query: ", "document": "passage: "},
            {"query": "query: ", "passage": "passage: "},
        ),
        ({"query": "find: "}, {"query": "find: ", "passage": ""}),
        ({"query": "", "document": ""}, {}),
        ({"clustering": "cluster: "}, {}),
        ({"document": "d: ", "passage": "d: "}, {"query": "", "passage": "d: "}),
    ],
)
def test_prompts_become_prefixes(
    tmp_path: Path, prompts: dict[str, str], prefixes: dict[str, str]
) -> None:
    write_sentence_transformers(tmp_path, prompts=prompts)
    found = facts(tmp_path)
    assert found is not None
    assert found.prefixes == prefixes


@pytest.mark.parametrize(
    ("types", "named"),
    [
        (("Transformer", "Pooling", "CNN", "Normalize"), "has the module CNN"),
        (("Transformer", "Pooling", "Normalize", "Dense"), "Normalize, Dense, wanted"),
        (("Transformer", "WeightedLayerPooling"), "has the module WeightedLayerPooling"),
        (("Transformer",), "has the modules Transformer, wanted"),
        (("Transformer", "Normalize", "Pooling"), "Transformer, Normalize, Pooling, wanted"),
        ((), "has no module"),
    ],
)
def test_other_modules_are_refused_by_name(
    tmp_path: Path, types: tuple[str, ...], named: str
) -> None:
    write_sentence_transformers(tmp_path)
    write_modules(tmp_path, *(MODULE.format(name) for name in types))
    with pytest.raises(CheckpointRefused) as refused:
        facts(tmp_path)
    assert named in str(refused.value)


def test_a_checkpoints_own_code_is_refused_by_name(tmp_path: Path) -> None:
    write_sentence_transformers(tmp_path)
    write_modules(tmp_path, "custom_st.Transformer", MODULE.format("Pooling"))
    with pytest.raises(CheckpointRefused, match=r"the module custom_st\.Transformer"):
        facts(tmp_path)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"pooling_mode": "max"}, "pools by max"),
        ({"pooling_mode": ["mean", "max"]}, "pools by mean, max"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls_token, mean_tok"),
        ({"pooling_mode_weightedmean_tokens": True}, "pools by weightedmean_tokens"),
        ({"pooling_mode": []}, "pools by nothing"),
        ({"pooling_mode": [{}]}, "pools by {}"),
        ({"pooling_mode": [["mean"]]}, "pools by ['mean']"),
        ({"pooling_mode": "mean", "include_prompt": False}, "include_prompt = false"),
    ],
)
def test_other_poolings_are_refused_by_name(
    tmp_path: Path, config: dict[str, Any], named: str
) -> None:
    write_sentence_transformers(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointRefused) as refused:
        facts(tmp_path)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("file", "values", "named"),
    [
        ("sentence_bert_config.json", {"query_length": 32}, "query_length = 32"),
        ("sentence_bert_config.json", {"transformer_task": "text-generation"}, "text-generation"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length = 0"),
        (
            "config_sentence_transformers.json",
            {"prompts": {"passage": "a: ", "document": "b: "}},
            "both 'a: ' and 'b: '",
        ),
        (
            "config_sentence_transformers.json",
            {"prompts": ["query"]},
            "got `array` - at `$.prompts`",
        ),
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": "q"}, "default_prompt_name": ["query"]},
            "got `array` - at `$.default_prompt_name`",
        ),
        (
            "config_sentence_transformers.json",
            {"prompts": {"sts": "s: "}, "default_prompt_name": "sts"},
            "default_prompt_name = 'sts'",
        ),
    ],
)
def test_settings_that_would_give_other_vectors_are_refused(
    tmp_path: Path, file: str, values: dict[str, Any], named: str
) -> None:
    write_sentence_transformers(tmp_path)
    change(tmp_path / file, **values)
    with pytest.raises(CheckpointRefused) as refused:
        facts(tmp_path)
    assert named in str(refused.value)


def test_a_bert_without_these_files_says_what_is_missing(tmp_path: Path) -> None:
    write_sentence_transformers(tmp_path)
    (tmp_path / "modules.json").unlink()
    with pytest.raises(CheckpointRefused, match=r"no modules\.json"):
        facts(tmp_path)


@pytest.mark.parametrize("text", ["{", "[{}]", '{"a": 1}'])
def test_modules_that_cannot_be_read_are_named(tmp_path: Path, text: str) -> None:
    write_sentence_transformers(tmp_path)
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(CheckpointRefused, match=r"modules\.json cannot be used"):
        facts(tmp_path)


def test_a_module_without_its_folder_is_named(tmp_path: Path) -> None:
    write_sentence_transformers(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").unlink()
    with pytest.raises(CheckpointRefused, match=r"config\.json in .*1_Pooling"):
        facts(tmp_path)


@pytest.mark.parametrize("key", ["model_args", "processor_kwargs", "config_kwargs"])
def test_arguments_that_change_no_vector_are_taken(tmp_path: Path, key: str) -> None:
    write_sentence_transformers(tmp_path)
    harmless = {
        "trust_remote_code": True,
        "torch_dtype": "float16",
        "attn_implementation": "sdpa",
        "add_pooling_layer": False,
    }
    for arguments in (harmless, {}, None):
        change(tmp_path / "sentence_bert_config.json", **{key: arguments})
        assert texts(tmp_path) == TextFacts(256, lower_case=False)
    for arguments in (harmless | {"num_hidden_layers": 1}, [], ["dtype"], "dtype"):
        change(tmp_path / "sentence_bert_config.json", **{key: arguments})
        with pytest.raises(CheckpointRefused, match=f"sentence_bert_config.json has {key} = "):
            texts(tmp_path)


def write_messages(directory: Path, output: str, form: object = "flat") -> None:
    """What version 6 writes where the tokenizer has a chat template."""
    text = {"method": "forward", "method_output_name": output}
    settings = {"modality_config": {"text": text, "message": text | {"format": form}}}
    (directory / "sentence_bert_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("write", [write_sentence_transformers, write_llama_embedder])
def test_an_embedder_of_messages_is_refused_where_a_template_would_render_them(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    write_sentence_transformers(tmp_path / "files")
    directory = write(tmp_path / "model")
    (directory / "1_Pooling").mkdir(exist_ok=True)
    for name in ("modules.json", "1_Pooling/config.json"):
        (directory / name).write_bytes((tmp_path / "files" / name).read_bytes())
    write_messages(directory, "last_hidden_state")
    texts(directory)
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(CheckpointRefused, match=r"modality_config = .*message"):
        texts(directory)
    (directory / "chat_template.jinja").unlink()
    change(directory / "tokenizer_config.json", chat_template="{{ messages }}")
    with pytest.raises(CheckpointRefused, match=r"modality_config = .*message"):
        texts(directory)


@pytest.mark.parametrize(
    ("output", "form"), [("last_hidden_state", "flat"), ("logits", "other"), ("logits", None)]
)
def test_other_messages_of_a_reranker_are_refused(
    tmp_path: Path, output: str, form: object
) -> None:
    write_llama(tmp_path)
    module = {"path": "", "type": MODULE.format("transformer.Transformer")}
    (tmp_path / "modules.json").write_text(json.dumps([module]))
    model = {"model_type": "CrossEncoder"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(model))
    change(tmp_path / "tokenizer_config.json", chat_template="{{ messages }}")
    task = {"transformer_task": "sequence-classification"}
    write_messages(tmp_path, "logits")
    change(tmp_path / "sentence_bert_config.json", **task)
    texts(tmp_path)
    write_messages(tmp_path, output, form)
    change(tmp_path / "sentence_bert_config.json", **task)
    with pytest.raises(CheckpointRefused, match=r"modality_config = .*message"):
        texts(tmp_path)


@pytest.mark.parametrize("module", [0, 1, 2])
@pytest.mark.parametrize("path", ["a\0b", "a" * 5000, "vocab.txt", "../outside", "absent"])
def test_a_path_that_is_no_folder_of_the_checkpoint_is_refused(
    tmp_path: Path, module: int, path: str
) -> None:
    write_sentence_transformers(tmp_path)
    (tmp_path / "vocab.txt").write_text("")
    modules = json.loads((tmp_path / "modules.json").read_bytes())
    modules[module]["path"] = path
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    if (module, path) == (2, "absent"):  # Normalize has no file that must be there
        assert facts(tmp_path) == VectorFacts("avg", True, {})
        return
    with pytest.raises(CheckpointRefused, match="wanted a folder in the checkpoint"):
        facts(tmp_path)


@pytest.mark.parametrize(
    "settings", [{}, {"module_input_name": "sentence_embedding", "module_output_name": None}]
)
def test_what_version_6_writes_of_normalize_means_the_same(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    write_sentence_transformers(tmp_path)
    (tmp_path / "2_Normalize").mkdir()
    (tmp_path / "2_Normalize" / "config.json").write_text(json.dumps(settings))
    assert facts(tmp_path) == VectorFacts("avg", True, {})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("module_input_name", "token_embeddings"),
        ("module_input_name", None),
        ("module_output_name", "normalized"),
    ],
)
def test_another_normalize_is_refused(tmp_path: Path, key: str, value: object) -> None:
    write_sentence_transformers(tmp_path)
    (tmp_path / "2_Normalize").mkdir()
    (tmp_path / "2_Normalize" / "config.json").write_text(json.dumps({key: value}))
    with pytest.raises(CheckpointRefused, match=rf"2_Normalize/config\.json has {key}"):
        facts(tmp_path)


def test_a_llama_says_its_own_pooling_and_always_normalises(tmp_path: Path) -> None:
    write_llama_embedder(tmp_path / "plain", pooling="last")
    assert facts(tmp_path / "plain") == VectorFacts("last", True, None)
    write_llama_embedder(tmp_path / "odd", pooling="max")
    with pytest.raises(CheckpointRefused, match="pooling = 'max'"):
        facts(tmp_path / "odd")


def test_a_llama_and_its_modules_may_not_contradict_each_other(tmp_path: Path) -> None:
    write_sentence_transformers(tmp_path / "files", pooling="cls", normalize=False)
    llama = write_llama_embedder(tmp_path / "llama", pooling="cls")
    (llama / "1_Pooling").mkdir()
    for name in ("modules.json", "1_Pooling/config.json"):
        (llama / name).write_bytes((tmp_path / "files" / name).read_bytes())
    assert facts(llama) == VectorFacts("cls", False, None)
    change(llama / "config.json", pooling="avg")
    with pytest.raises(CheckpointRefused, match=r"'avg', the Pooling module .* says 'cls'"):
        facts(llama)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_weights_load_with_and_without_the_prefix_and_without_the_pooler(
    tmp_path: Path, kind: str
) -> None:
    write = write_sentence_transformers if kind == "bert" else write_llama_embedder
    prefix = "bert." if kind == "bert" else "model."
    write(tmp_path)
    plain = load_model(read_checkpoint(str(tmp_path))).state_dict()
    weights = {prefix + k: v for k, v in load_file(tmp_path / "model.safetensors").items()}
    if kind == "bert":
        weights["bert.pooler.dense.weight"] = torch.ones(64, 64)
    save_file(weights, tmp_path / "model.safetensors")
    found = load_model(read_checkpoint(str(tmp_path))).state_dict()
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_a_tensor_saved_under_both_names_is_refused(tmp_path: Path) -> None:
    write_llama_embedder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"] = weights["norm.weight"] + 1
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointRefused, match=r"unexpected: .*norm\.weight"):
        load_model(read_checkpoint(str(tmp_path)))


def test_a_head_on_an_embedder_is_refused(tmp_path: Path) -> None:
    write_llama_embedder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors") | {"score.weight": torch.ones(1, 64)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointRefused, match=r"unexpected: score\.weight"):
        load_model(read_checkpoint(str(tmp_path)))
