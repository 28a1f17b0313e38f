"""XLM-R, RoBERTa, ModernBERT and DeBERTa against transformers' own, and on the whole way."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
)
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from exporter.architectures.config import Config
from exporter.architectures.deberta import distance_places
from exporter.architectures.modernbert import GLOBAL, LOCAL, layer_kinds
from exporter.checkpoint import load_model, probe, read_checkpoint
from exporter.errors import CheckpointRefused
from exporter.tokens import load_tokenizer
from runtime.manifest import read_manifest
from runtime.opening import open_ranker
from runtime.requests import RankRequest
from tests.conftest import Exported
from tests.exporter.targets import HALF
from tests.tiny_encoders import (
    DEBERTA,
    write_deberta,
    write_modernbert,
    write_roberta,
    write_xlm_roberta,
)

FAMILIES = (write_xlm_roberta, write_roberta, write_modernbert, write_deberta)
# Real tokens of each row; with 16 buckets and a window of ±6, every kind of distance is there.
LENGTHS = (90, 41, 7)


def load(directory: Path) -> Any:
    return load_model(read_checkpoint(str(directory)))


def vocabulary(directory: Path) -> int:
    return int(json.loads((directory / "config.json").read_bytes())["vocab_size"])


def uneven(directory: Path, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids of uneven rows, padded on `side`, and the mask."""
    pad = json.loads((directory / "config.json").read_bytes())["pad_token_id"]
    generator = torch.Generator().manual_seed(1)
    shape = (len(LENGTHS), max(LENGTHS))
    ids = torch.randint(5, vocabulary(directory), shape, generator=generator)
    mask = (torch.arange(shape[1]) < torch.tensor(LENGTHS).unsqueeze(1)).long()
    ids = torch.where(mask.bool(), ids, pad)
    if side == "left":
        pads = [shape[1] - length for length in LENGTHS]
        ids, mask = (
            torch.stack([row.roll(count) for row, count in zip(part, pads, strict=True)])
            for part in (ids, mask)
        )
    return ids, mask


@torch.inference_mode()
def reference(directory: Path, *inputs: torch.Tensor) -> torch.Tensor:
    """The logits of transformers' own model of the checkpoint."""
    theirs = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    names = ("input_ids", "attention_mask", "token_type_ids")
    return theirs(**dict(zip(names, inputs, strict=False))).logits


def assert_gives_transformers_scores(directory: Path) -> None:
    ids, mask = uneven(directory, "right")
    wanted = reference(directory, ids, mask)
    ours = load(directory)
    left_ids, left_mask = uneven(directory, "left")
    for narrow in (False, True):
        ours.body.narrow = narrow
        with torch.inference_mode():
            torch.testing.assert_close(ours(ids, mask), wanted, atol=1e-5, rtol=0)
            # Whatever is there: the mask alone says what is padding.
            left = ours(torch.where(left_mask.bool(), left_ids, 9), left_mask)
        torch.testing.assert_close(left, wanted, atol=1e-5, rtol=0)
    assert wanted.std() > 1e-2


@pytest.mark.parametrize("write", FAMILIES)
def test_scores_are_transformers_whichever_side_is_padded(tmp_path: Path, write: Any) -> None:
    assert_gives_transformers_scores(write(tmp_path))


@pytest.mark.parametrize(
    ("write", "changes"),
    [
        (write_xlm_roberta, {"type_vocab_size": 2, "hidden_act": "gelu_new"}),
        (write_modernbert, {"classifier_pooling": "cls"}),
        (
            write_modernbert,
            {
                "classifier_pooling": "cls",
                "local_attention": 5,
                "layer_types": [GLOBAL, LOCAL, LOCAL],
                "global_attn_every_n_layers": None,
            },
        ),
        (write_modernbert, {"local_attention": 31, "global_attn_every_n_layers": 3}),
        (write_modernbert, {"local_rope_theta": 500.0}),
        (
            write_modernbert,
            {"layer_types": [LOCAL, GLOBAL, LOCAL], "global_attn_every_n_layers": None},
        ),
        (
            write_modernbert,
            {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True},
        ),
        (write_deberta, {"position_buckets": -1}),
        (write_deberta, {"position_buckets": -1, "max_relative_positions": 20}),
        (write_deberta, {"position_buckets": 8, "max_relative_positions": 100}),
        (write_deberta, {"pos_att_type": "c2p|p2c", "pooler_hidden_act": "relu"}),
    ],
)
def test_settings_are_honoured(tmp_path: Path, write: Any, changes: dict[str, Any]) -> None:
    directory = write(tmp_path, **changes)
    assert_gives_transformers_scores(directory)


@pytest.mark.parametrize("write", FAMILIES)
def test_without_an_epsilon_every_norm_has_that_of_transformers(tmp_path: Path, write: Any) -> None:
    directory = write(tmp_path)
    path = directory / "config.json"
    config = json.loads(path.read_bytes())
    kept = {
        key: value for key, value in config.items() if key not in ("layer_norm_eps", "norm_eps")
    }
    path.write_text(json.dumps(kept))
    theirs = AutoModelForSequenceClassification.from_pretrained(directory)
    found, wanted = (
        sorted(part.eps for part in model.modules() if isinstance(part, torch.nn.LayerNorm))
        for model in (load(directory), theirs)
    )
    assert found == wanted


def test_deberta_with_token_types(tmp_path: Path) -> None:
    directory = write_deberta(tmp_path, type_vocab_size=2)
    ids, mask = uneven(directory, "right")
    types = (torch.arange(ids.shape[1]) > 4).long().expand_as(ids)
    ours = load(directory)
    assert ours.inputs == ("input_ids", "attention_mask", "token_type_ids")
    with torch.inference_mode():
        found = ours(ids, mask, types)
        untyped = ours(ids, mask, torch.zeros_like(types))
    torch.testing.assert_close(found, reference(directory, ids, mask, types), atol=1e-5, rtol=0)
    assert (found - untyped).abs().min() > 1e-3


def test_a_pad_token_inside_a_text_is_not_counted(tmp_path: Path) -> None:
    """Training saw it so; a mask alone would count it."""
    directory = write_xlm_roberta(tmp_path)
    ids, mask = uneven(directory, "right")
    ids[:, 3] = 1
    with torch.inference_mode():
        found = load(directory)(ids, mask)
    torch.testing.assert_close(found, reference(directory, ids, mask), atol=1e-5, rtol=0)


def test_positions_behind_the_padding_id_are_what_is_left(tmp_path: Path) -> None:
    assert load(write_xlm_roberta(tmp_path / "one")).position_limit == 512
    four = write_xlm_roberta(tmp_path / "four", pad_token_id=4, max_position_embeddings=20)
    assert load(four).position_limit == 15


def test_both_spellings_of_modernbert_mean_the_same(tmp_path: Path) -> None:
    directory = write_modernbert(tmp_path)
    ids, mask = uneven(directory, "right")
    with torch.inference_mode():
        old = load(directory)(ids, mask)
        # transformers 5 rewrites the config as it saves.
        AutoConfig.from_pretrained(directory).save_pretrained(directory)
        assert "rope_parameters" in json.loads((directory / "config.json").read_bytes())
        assert torch.equal(load(directory)(ids, mask), old)


def test_every_third_layer_of_modernbert_sees_all() -> None:
    config = {"num_hidden_layers": 5}
    assert layer_kinds(Config(config)) == [GLOBAL, LOCAL, LOCAL, GLOBAL, LOCAL]


def test_deberta_distances_fall_into_transformers_buckets() -> None:
    """At the size of DeBERTa v3, exactly: one bucket beside is another score."""
    config = DEBERTA | {"position_buckets": 256, "max_position_embeddings": 512}
    apart = torch.arange(-511, 512)
    wanted = make_log_bucket_position(apart, 256, 512).long() + 256
    assert distance_places(Config(config)).equal(wanted.clamp(0, 511))


@pytest.mark.parametrize(
    ("write", "changes", "named"),
    [
        (write_xlm_roberta, {"position_embedding_type": "relative_key"}, "relative_key"),
        (write_xlm_roberta, {"is_decoder": True}, "is_decoder"),
        (write_xlm_roberta, {"hidden_act": "silu"}, "hidden_act"),
        (write_xlm_roberta, {"temperature": 2.0}, "temperature"),
        (write_modernbert, {"hidden_activation": "silu"}, "hidden_activation"),
        (write_modernbert, {"classifier_pooling": "max"}, "classifier_pooling"),
        (write_modernbert, {"layer_types": ["linear_attention"] * 3}, "linear_attention"),
        (write_modernbert, {"layer_types": [GLOBAL]}, "1 layer_types"),
        (write_modernbert, {"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
        (write_modernbert, {"rope_parameters": {"rope_theta": 1e4}}, "full_attention"),
        (
            write_modernbert,
            {"rope_parameters": {kind: {"rope_type": "yarn"} for kind in (GLOBAL, LOCAL)}},
            "yarn",
        ),
        (
            write_modernbert,
            {"rope_parameters": {kind: {"rope_theta": 5.0} for kind in (GLOBAL, LOCAL)}},
            "rope_theta",
        ),
        (write_deberta, {"relative_attention": False}, "relative_attention"),
        (write_deberta, {"position_biased_input": True}, "position_biased_input"),
        (write_deberta, {"share_att_key": False}, "share_att_key"),
        (write_deberta, {"share_att_key": None}, "share_att_key"),
        (write_deberta, {"norm_rel_ebd": "none"}, "norm_rel_ebd"),
        (write_deberta, {"pos_att_type": ["c2p"]}, "pos_att_type"),
        (write_deberta, {"conv_kernel_size": 3}, "conv_kernel_size"),
        (write_deberta, {"embedding_size": 32}, "embedding_size"),
        (write_deberta, {"pooler_hidden_size": 32}, "pooler_hidden_size"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    tmp_path: Path, write: Any, changes: dict[str, Any], named: str
) -> None:
    directory = write(tmp_path)
    config = json.loads((directory / "config.json").read_bytes()) | changes
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointRefused, match=named):
        load(directory)


@pytest.mark.parametrize("key", ["relative_attention", "position_biased_input", "share_att_key"])
def test_what_deberta_takes_an_absent_key_for_is_refused(tmp_path: Path, key: str) -> None:
    directory = write_deberta(tmp_path)
    config = json.loads((directory / "config.json").read_bytes())
    del config[key]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointRefused, match=key):
        load(directory)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_roberta, "roberta.pooler.dense.weight"),
        (write_deberta, "deberta.embeddings.position_embeddings.weight"),
    ],
)
def test_weights_that_transformers_ignores_too_do_no_harm(
    tmp_path: Path, write: Any, name: str
) -> None:
    directory = write(tmp_path)
    weights = load_file(directory / "model.safetensors")
    save_file(weights | {name: torch.ones(64, 64)}, directory / "model.safetensors")
    assert_gives_transformers_scores(directory)
    save_file(weights | {"other.weight": torch.ones(64, 64)}, directory / "model.safetensors")
    with pytest.raises(CheckpointRefused, match=r"unexpected: other\.weight"):
        load(directory)


@pytest.mark.parametrize("write", FAMILIES)
def test_half_precision_rounds_only_the_large_products(tmp_path: Path, write: Any) -> None:
    model = load(write(tmp_path)).halve(torch.float16)
    halved = {name for name, p in model.named_parameters() if p.dtype == torch.float16}
    assert any("embed" in name for name in halved)
    assert all("layer" in name or "_embeddings" in name for name in halved)
    assert not any("norm" in name.lower() or "rel_embeddings" in name for name in halved)


@pytest.mark.parametrize("write", FAMILIES)
def test_every_token_sees_the_others(tmp_path: Path, write: Any) -> None:
    directory = write(tmp_path)
    probe(load(directory), vocabulary(directory))


@pytest.mark.parametrize(
    "family",
    [
        "xlm-roberta",
        *(pytest.param(one, marks=pytest.mark.heavy) for one in ("modernbert", "deberta")),
    ],
)
def test_the_complete_way(family: str, checkpoints: dict[str, Path], exported: Exported) -> None:
    assert_proven_and_served(exported(checkpoints[family]))


@pytest.mark.heavy
@pytest.mark.parametrize("family", ["modernbert", "deberta"])
def test_the_complete_way_in_float16(
    family: str, checkpoints: dict[str, Path], exported: Exported
) -> None:
    assert_proven_and_served(exported(checkpoints[family], HALF))


def assert_proven_and_served(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    assert manifest.inputs == ["input_ids", "attention_mask"]
    assert manifest.template is None
    rungs = json.loads((artifact / "parity.json").read_bytes())["rungs"]
    assert list(rungs) == ["tokens", "logits", "ranking"]
    assert all(rung["passed"] for rung in rungs.values())
    with closing(open_ranker(artifact, engine="onnxruntime-cpu")) as ranker:
        short, long = ("short", "a passage of some more words than the other one")
        together = ranker.rank(RankRequest("query", [short, long])).logits
        swapped = ranker.rank(RankRequest("query", [long, short])).logits
    assert together.tolist() == pytest.approx(swapped[::-1].tolist(), abs=1e-3)


@pytest.mark.parametrize("write", [write_xlm_roberta, write_deberta, write_roberta])
def test_a_checkpoint_without_a_vocabulary_is_refused(tmp_path: Path, write: Any) -> None:
    """transformers would make a tokenizer that knows no word."""
    directory = write(tmp_path)
    (directory / "tokenizer.json").unlink()
    with pytest.raises(CheckpointRefused, match=r"vocabulary of the tokenizer .* tokenizer\.json"):
        load_tokenizer(directory, None)


@pytest.mark.parametrize(
    ("write", "architecture", "prefix"),
    [
        (write_xlm_roberta, "XLMRobertaModel", "roberta."),
        (write_roberta, "RobertaModel", "roberta."),
        (write_modernbert, "ModernBertModel", "model."),
    ],
)
def test_bodies_serve_as_embedding_models(
    tmp_path: Path, write: Any, architecture: str, prefix: str
) -> None:
    """Saved without a head, with a pooler that nothing reads, in sentence-transformers' layout."""
    directory = write(tmp_path)
    states = load(directory).states
    weights = load_file(directory / "model.safetensors")
    bare = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    if prefix == "roberta.":
        bare["pooler.dense.weight"] = torch.zeros(64, 64)
    save_file(bare, directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_bytes()) | {
        "architectures": [architecture]
    }
    (directory / "config.json").write_text(json.dumps(config))
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [
        {"idx": i, "path": f"{i}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1").mkdir()
    (directory / "1" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    ids, mask = uneven(directory, "right")
    with torch.inference_mode():
        weighted = states(ids, mask) * mask.unsqueeze(-1)
        wanted = torch.nn.functional.normalize(weighted.sum(1) / mask.sum(1, keepdim=True), dim=1)
        torch.testing.assert_close(load(directory)(ids, mask), wanted, atol=1e-6, rtol=0)
