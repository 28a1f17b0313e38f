"""What a checkpoint that takes images must say, what it may not, and what is only told."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from exporter.checkpoint import load_model, read_checkpoint
from exporter.draft import ExportArgs, draft
from exporter.errors import CheckpointRefused
from exporter.image_reference import ask_images
from exporter.model_profile import choose_profile
from exporter.vision_files import grids
from exporter.witness.nemotron_vl import VisionReranker
from runtime.profile import load_target_profile
from tests.tiny_vision import (
    EMBEDDER,
    RERANKER,
    embedder_config,
    png,
    reranker_config,
    tokenizer,
    weights,
    write_vision,
)
from tests.vision_rules import FOUR, SIX


def drafted(folder: Path, *, strict: bool = False, **wishes: Any) -> Any:
    checkpoint = read_checkpoint(str(folder), strict=strict)
    target = load_target_profile("cpu-fp32")
    args = ExportArgs(strict=strict, **wishes)
    return draft(checkpoint, choose_profile(None, checkpoint.architecture), target, args)


def processor(folder: Path, **settings: Any) -> Path:
    (folder / "processor_config.json").write_text(json.dumps(settings))
    return folder


def test_grids_are_in_upstream_s_order() -> None:
    assert (grids(4), grids(6), grids(1)) == (FOUR, SIX, [(1, 1)])


def test_the_manifest_says_how_images_become_tokens(tmp_path: Path) -> None:
    manifest = drafted(write_vision(tmp_path), strict=True).manifest
    vision = manifest.vision
    assert (vision.rule.size, vision.rule.grids, vision.rule.thumbnail) == (96, FOUR, True)
    assert (vision.tokens, vision.hidden, vision.pixels) == (9, 64, "siglip-bfloat16")
    assert (vision.before, vision.context, vision.after) == (264, 266, 265)
    assert manifest.template == "question:{query} \n \n passage:{passage}"
    assert manifest.inputs == ["input_ids", "attention_mask", "image_index", "image_embeds"]
    assert (manifest.temperature, manifest.pooling, manifest.max_tokens) == (0.5, "avg", 256)
    assert manifest.profile == "llama-nemotron-rerank-vl-1b-v2"
    assert manifest.special_tokens.pad == 258


def test_an_embedder_s_prefixes_and_limit_are_the_config_s(tmp_path: Path) -> None:
    config = embedder_config(query_prefix="ask:", p_max_length=100)
    manifest = drafted(write_vision(tmp_path, config), strict=True).manifest
    assert manifest.prefixes == {"query": "ask: ", "passage": "passage: "}
    assert (manifest.max_tokens, manifest.normalize, manifest.dimensions) == (100, False, 64)


def test_another_prompt_is_the_one_without_words(tmp_path: Path) -> None:
    config = RERANKER | {"prompt_template": None}
    assert drafted(write_vision(tmp_path, config)).manifest.template == "{query} \n {passage}"


def test_without_dynamic_sizes_there_is_one_tile(tmp_path: Path) -> None:
    config = reranker_config(dynamic_image_size=False)
    assert drafted(write_vision(tmp_path, config)).manifest.vision.rule.grids == [(1, 1)]


def test_the_processor_goes_before_the_config(tmp_path: Path) -> None:
    folder = processor(
        write_vision(tmp_path),
        max_input_tiles=6,
        use_thumbnail=False,
        rerank_max_length=200,
        num_image_token=9,
        norm_type="siglip",
        image_size=96,
    )
    manifest = drafted(folder, strict=True).manifest
    assert (manifest.vision.rule.grids, manifest.vision.rule.thumbnail) == (SIX, False)
    assert manifest.max_tokens == 200
    assert manifest.origins["max_tokens"] == "processor_config.json (rerank_max_length)"


@pytest.mark.parametrize(
    "key",
    ["pooling", "prompt_template", "max_input_tiles", "dynamic_image_size", "use_thumbnail"],
)
def test_keys_with_a_wrong_default_are_wanted(key: str, tmp_path: Path) -> None:
    config = {name: value for name, value in RERANKER.items() if name != key}
    with pytest.raises(CheckpointRefused, match=f"config.json has no '{key}', and the model's own"):
        drafted(write_vision(tmp_path, config))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prompt_template", "v1"),
        ("max_input_tiles", 1),
        ("dynamic_image_size", False),
        ("use_thumbnail", False),
    ],
)
def test_a_key_of_the_processor_alone_is_read_alike_by_the_witness(
    key: str, value: Any, tmp_path: Path
) -> None:
    config = {name: found for name, found in RERANKER.items() if name != key}
    folder = processor(write_vision(tmp_path, config), **{key: value})
    manifest, witness = drafted(folder).manifest, VisionReranker(folder, config)
    tokens, _ = witness.score("q", "p")
    asked = manifest.template.format(query="q", passage="p")
    assert tokens.token_ids == tokenizer().encode(asked).ids
    assert asked == "question:q \n \n passage:p"
    assert len(witness.see(png(200, 100)).pixels) == manifest.vision.rule.count((200, 100))


def test_pooling_in_the_processor_s_file_is_no_pooling(tmp_path: Path) -> None:
    config = {name: found for name, found in RERANKER.items() if name != "pooling"}
    with pytest.raises(CheckpointRefused, match=r"config\.json has no 'pooling'"):
        drafted(processor(write_vision(tmp_path, config), pooling="avg"))


def test_two_labels_are_the_default_and_refused(tmp_path: Path) -> None:
    config = {k: v for k, v in RERANKER.items() if k not in ("id2label", "label2id")}
    with pytest.raises(CheckpointRefused, match="label"):
        drafted(write_vision(tmp_path, config))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pooling": "last"}, "pooling = 'last', and 'avg' in llm_config, wanted 'avg'"),
        ({"llm_config": {"pooling": "cls"}}, "pooling = 'avg', and 'cls' in llm_config"),
        ({"temperature": 1.0}, "temperature = 1.0, and 0.5 in llm_config"),
        ({"select_layer": -2}, "select_layer = -2, wanted -1"),
        ({"downsample_ratio": 1.0}, "downsample_ratio = 1.0, wanted 0.5"),
        ({"template": "chatml"}, "template = 'chatml'"),
        ({"force_image_size": 112}, "force_image_size = 112 and image_size = 96"),
        ({"max_input_tiles": 0}, "max_input_tiles = 0"),
        ({"max_input_tiles": 1000}, "max_input_tiles = 1000, wanted 24 at most"),
        ({"max_input_tiles": True}, "max_input_tiles = True"),
        ({"use_thumbnail": "yes"}, "use_thumbnail = 'yes', wanted true or false"),
        ({"img_context_token_id": 128258}, "img_context_token_id = 128258, the tokenizer"),
        ({"vocab_size": 300}, "vocab_size = 300, and 272 in llm_config"),
        ({"vision_config": {"hidden_act": "gelu"}}, "hidden_act = 'gelu'"),
        ({"vision_config": {"model_type": "clip_vision_model"}}, "wanted siglip_vision_model"),
        ({"vision_config": {"patch_size": 32}}, "in vision_config: .* even number of patches"),
        ({"vision_config": {"num_hidden_layers": 3}}, "in vision_config: .* the weights have 2"),
        ({"vision_config": {"intermediate_size": 81}}, "in vision_config: .*intermediate_size"),
        ({"vision_config": {"num_attention_heads": 5}}, "in vision_config: .*does not divide"),
        ({"vision_config": {"num_channels": 1}}, "num_channels = 1"),
        ({"llm_config": {"model_type": "llama"}}, "llm_config .* wanted llama_bidirec"),
        ({"llm_config": {"architectures": ["LlamaModel"]}}, "architectures = 'LlamaModel'"),
        ({"llm_config": {"hidden_size": 65}}, "in llm_config: .*hidden_size = 65"),
        ({"llm_config": {"num_hidden_layers": 4}}, "in llm_config: .*num_hidden_layers = 4"),
        ({"llm_config": {"hidden_act": "gelu"}}, "hidden_act = 'gelu'"),
        ({"quantization_config": {}}, "quantised weights"),
    ],
)
def test_a_config_that_would_be_exported_wrongly_is_refused(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    folder = write_vision(tmp_path)
    (folder / "config.json").write_text(json.dumps(reranker_config(**changes)))
    with pytest.raises(CheckpointRefused, match=told):
        drafted(folder)


@pytest.mark.parametrize("part", ["vision_config", "llm_config"])
@pytest.mark.parametrize("found", [None, [], 3, "llama"])
def test_both_parts_must_be_objects(part: str, found: object, tmp_path: Path) -> None:
    folder = write_vision(tmp_path)
    (folder / "config.json").write_text(json.dumps(RERANKER | {part: found}))
    with pytest.raises(CheckpointRefused, match=part):
        drafted(folder)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"norm_type": "imagenet"}, "norm_type = 'imagenet'"),
        ({"system_message": "You see."}, "system_message = 'You see.'"),
        ({"num_image_token": 256}, "num_image_token = 256, wanted 9"),
        ({"image_size": 512}, "image_size = 512"),
        ({"max_input_tiles": "six"}, "max_input_tiles = 'six'"),
    ],
)
def test_a_processor_that_feeds_otherwise_is_refused(
    settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointRefused, match=told):
        drafted(processor(write_vision(tmp_path), **settings))


def test_what_upstream_ignores_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = reranker_config(ps_version="v1", bidirectional_attention=False)
    drafted(write_vision(tmp_path, config))
    told = capsys.readouterr().err
    assert "ps_version = 'v1', which the model's own code does not read" in told
    assert "bidirectional_attention = False, which the model's own code does not read" in told


@pytest.mark.parametrize("where", ["config.json", "vision_config", "processor_config.json"])
def test_unknown_keys_are_told_or_refused(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = {"new_key": 1}
    config = (
        RERANKER | new
        if where == "config.json"
        else reranker_config(**({"vision_config": new} if where == "vision_config" else {}))
    )
    folder = write_vision(tmp_path, config)
    if where == "processor_config.json":
        processor(folder, **new)
    drafted(folder)
    assert "new_key" in capsys.readouterr().err
    with pytest.raises(CheckpointRefused, match="new_key"):
        drafted(folder, strict=True)


@pytest.mark.parametrize("config", [RERANKER, EMBEDDER], ids=["rank", "embed"])
@pytest.mark.parametrize("nesting", ["once", "twice"])
def test_both_nestings_are_one_model(config: Any, nesting: Any, tmp_path: Path) -> None:
    folder = write_vision(tmp_path, config, nesting=nesting)
    model = load_model(read_checkpoint(str(folder)))
    stored = weights(config)
    prefix = "model." if config is RERANKER else ""
    name = "embeddings.patch_embedding.weight"
    wanted = stored[f"{prefix}vision_model.vision_model.{name}"].float()
    assert torch.equal(model.vision_model.embeddings.patch_embedding.weight, wanted)
    assert sum(p.numel() for p in model.parameters()) == (
        237_392 if config is RERANKER else 237_328
    )


def test_weights_that_have_two_names_are_refused(tmp_path: Path) -> None:
    folder = write_vision(tmp_path)
    file = folder / "model.safetensors"
    stored = load_file(file)
    stored["model.vision_model.post_layernorm.bias"] = torch.zeros(48)
    save_file(stored, file)
    with pytest.raises(CheckpointRefused, match="wanted one of them"):
        drafted(folder)


def test_a_tokenizer_without_image_tokens_is_refused(tmp_path: Path) -> None:
    folder = write_vision(tmp_path)
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace("<img>", "<other>"))
    with pytest.raises(CheckpointRefused, match="no added token <img>"):
        drafted(folder)


def test_wishes_for_another_prompt_or_adapter_are_refused(tmp_path: Path) -> None:
    from exporter.prompt import Prompt

    folder = write_vision(tmp_path)
    with pytest.raises(CheckpointRefused, match=r"stands in config\.json"):
        drafted(folder, template=Prompt("{query}{passage}", "--template"))
    with pytest.raises(CheckpointRefused, match="takes images"):
        read_checkpoint(str(folder), pooling="cls")


def test_other_vision_language_models_are_refused_by_name(tmp_path: Path) -> None:
    folder = write_vision(tmp_path)
    other = RERANKER | {"architectures": ["LlamaBidirectionalForSequenceClassification"]}
    (folder / "config.json").write_text(json.dumps(other))
    with pytest.raises(CheckpointRefused, match="vision-language model"):
        read_checkpoint(str(folder))


def test_a_limit_without_room_for_an_image_is_refused(tmp_path: Path) -> None:
    manifest = drafted(write_vision(tmp_path), max_tokens=10).manifest
    witness = VisionReranker(tmp_path, RERANKER)
    with pytest.raises(CheckpointRefused, match="no room for an image of one tile"):
        ask_images(manifest, witness)
