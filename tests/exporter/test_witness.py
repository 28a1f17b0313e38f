"""The loaders that users use, in the exporter's place."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from exporter import reference
from exporter.checkpoint import load_model, read_checkpoint
from exporter.cli import main
from exporter.draft import draft
from exporter.errors import CheckpointRefused, NoWitness, ParityFailed
from exporter.model_profile import choose_profile
from exporter.pipeline import ExportArgs, export, verify
from exporter.report import read_report
from exporter.witness import rank_witness, vector_witness
from exporter.witness.base import RankWitness, VectorWitness
from runtime.manifest import read_manifest
from runtime.profile import load_target_profile
from tests.exporter.conftest import ReadyGraph
from tests.tiny_checkpoints import (
    BERT,
    LLAMA,
    write_bert,
    write_llama,
    write_llama_embedder,
    write_sentence_transformers,
)

TEMPLATE = "question:{query} \n \n passage:{passage}"
PAIR = ("what is AI", "Machine learning is a subset of AI.")


def ranks(directory: Path, config: dict[str, Any] = BERT) -> RankWitness:
    return rank_witness(
        directory,
        directory,
        config,
        TEMPLATE if config["model_type"] == LLAMA["model_type"] else None,
    )


def ranks_llama(directory: Path) -> RankWitness:
    return ranks(directory, json.loads((directory / "config.json").read_bytes()))


def embeds(directory: Path) -> VectorWitness:
    return vector_witness(directory, directory, BERT, {})


def change(directory: Path, **tensors: torch.Tensor | None) -> None:
    file = directory / "model.safetensors"
    changed = load_file(file) | tensors
    save_file({name: found for name, found in changed.items() if found is not None}, file)


@pytest.mark.parametrize("config", [BERT, LLAMA], ids=["bert", "llama"])
def test_ids_and_raw_texts_give_the_same(config: dict[str, Any], tmp_path: Path) -> None:
    (write_llama if config is LLAMA else write_bert)(tmp_path)
    written = json.loads((tmp_path / "config.json").read_bytes())
    witness = ranks(tmp_path, written)
    tokens, logit = witness.score(*PAIR)
    assert logit.shape == (1,)
    np.testing.assert_allclose(witness.values(tokens), logit, atol=1e-6)


@pytest.mark.parametrize(
    ("names", "output"),
    [
        ({"classifier.weight": None}, "made up, as the files hold none: classifier.weight"),
        ({"more.weight": torch.zeros(2, 2)}, "left out, as no layer wants them: more.weight"),
        (
            {"classifier.bias": torch.zeros(5)},
            r"of another shape .*classifier\.bias",
        ),
    ],
)
def test_weights_that_are_not_all_of_them_are_no_testimony(
    names: dict[str, torch.Tensor | None], output: str, tmp_path: Path
) -> None:
    change(write_bert(tmp_path), **names)
    with pytest.raises(NoWitness, match=output):
        ranks(tmp_path)


@pytest.mark.parametrize(
    ("names", "output"),
    [
        ({"score.weight": None}, r"made up, as the files hold none: score\.weight"),
        ({"more.weight": torch.zeros(2, 2)}, "left out, as no layer wants them: more.weight"),
        ({"model.norm.weight": torch.zeros(5)}, r"of another shape .*model\.norm\.weight"),
    ],
)
def test_nor_are_those_of_a_llama(
    names: dict[str, torch.Tensor | None], output: str, tmp_path: Path
) -> None:
    change(write_llama(tmp_path), **names)
    with pytest.raises(NoWitness, match=output):
        ranks_llama(tmp_path)


def test_shards_are_read_as_one_file_is(tmp_path: Path) -> None:
    logit = ranks_llama(write_llama(tmp_path)).score(*PAIR)[1]
    held = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(NoWitness, match="cannot be read"):
        ranks_llama(tmp_path)
    names = sorted(held)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in shards.items():
        save_file({name: held[name] for name in some}, tmp_path / file)
    index = {"weight_map": {name: file for file, some in shards.items() for name in some}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert ranks_llama(tmp_path).score(*PAIR)[1] == logit


def test_a_pooler_that_no_vector_depends_on_may_be_missing(tmp_path: Path) -> None:
    write_sentence_transformers(tmp_path)
    vectors = [embeds(tmp_path).embed("a text", None)[1]]
    change(
        tmp_path,
        **{"pooler.dense.weight": torch.zeros(64, 64), "pooler.dense.bias": torch.zeros(64)},
    )
    vectors.append(embeds(tmp_path).embed("a text", None)[1])
    assert np.linalg.norm(vectors[0]) == pytest.approx(1)
    assert vectors[0].tolist() == vectors[1].tolist()


def test_prompts_are_found_by_what_a_text_is(tmp_path: Path) -> None:
    write_sentence_transformers(tmp_path, prompts={"query": "", "document": "", "passage": "AI "})
    witness = embeds(tmp_path)
    plain, query = (witness.embed("a text", kind)[0] for kind in (None, "query"))
    assert witness.embed("a text", "passage")[0] == witness.embed("AI a text", None)[0] != plain
    assert query == plain


def embeds_llama(directory: Path) -> VectorWitness:
    written = json.loads((directory / "config.json").read_bytes())
    return vector_witness(directory, directory, written, {"query": "q ", "passage": "AI "})


@pytest.mark.parametrize(
    ("prompts", "query", "passage"),
    [
        ({"query": "AI ", "document": "", "passage": "is "}, "AI ", "is "),
        ({"corpus": "is "}, "", "is "),
        ({"clustering": "is "}, "", ""),
        (None, "q ", "AI "),
    ],
)
def test_a_llama_takes_the_prompts_that_sentence_transformers_would(
    prompts: dict[str, str] | None, query: str, passage: str, tmp_path: Path
) -> None:
    write_llama_embedder(tmp_path)
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    (tmp_path / "modules.json").write_text(json.dumps([module]))
    settings = {} if prompts is None else {"prompts": prompts}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    witness = embeds_llama(tmp_path)
    for kind, prompt in (("query", query), ("passage", passage)):
        assert witness.embed("a text", kind)[0] == witness.embed(prompt + "a text", None)[0]


@pytest.mark.parametrize(
    ("prompts", "wished", "query", "passage"),
    [
        ({"query": "AI ", "document": "is "}, None, "AI ", "is "),
        ({"query": "", "document": ""}, None, "", ""),
        ({"query": "", "document": ""}, {"query": "is ", "passage": ""}, "is ", ""),
        (None, None, "q ", "AI "),
        (None, {}, "", ""),
        (None, {"query": "is ", "passage": "AI is "}, "is ", "AI is "),
    ],
)
def test_prompts_of_the_folder_go_before_published_ones_and_options_before_both(
    prompts: dict[str, str] | None,
    wished: dict[str, str] | None,
    query: str,
    passage: str,
    tmp_path: Path,
) -> None:
    write_sentence_transformers(tmp_path, prompts=prompts or {})
    if prompts is None:
        (tmp_path / "config_sentence_transformers.json").unlink()
    published = {"query": "q ", "passage": "AI "}
    witness = vector_witness(tmp_path, tmp_path, BERT, published, wished)
    for kind, prompt in (("query", query), ("passage", passage)):
        assert witness.embed("a text", kind)[0] == witness.embed(prompt + "a text", None)[0]


@pytest.mark.parametrize("pooling", ["avg", "cls", "last"])
def test_a_body_alone_is_pooled_as_it_is_asked(pooling: str, tmp_path: Path) -> None:
    write_sentence_transformers(tmp_path)
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (tmp_path / name).unlink()
    witness = vector_witness(tmp_path, tmp_path, BERT, {}, None, pooling)
    tokens, vector = witness.embed("a text of sheep", None)
    model = load_model(read_checkpoint(str(tmp_path), pooling=pooling))
    types = tokens.type_ids or []
    row = [torch.tensor([ids]) for ids in (tokens.token_ids, [1] * len(types), types)]
    with torch.inference_mode():
        np.testing.assert_allclose(vector, model(*row)[0].numpy(), atol=1e-6)


def test_a_direction_that_is_null_is_ignored(tmp_path: Path) -> None:
    write_llama_embedder(tmp_path)
    vectors = []
    for output in ({"is_causal": True}, {"use_bidirectional_attention": False, "is_causal": None}):
        config = json.loads((tmp_path / "config.json").read_bytes()) | output
        witness = vector_witness(tmp_path, tmp_path, config, {})
        vectors.append(witness.embed("a text", None)[1].tolist())
    assert vectors[0] == vectors[1]


@pytest.mark.parametrize("text", ["[]", '{"prompts": ["a"]}', '{"prompts": {"query": 3}}'])
def test_prompts_that_cannot_be_read_are_no_testimony(text: str, tmp_path: Path) -> None:
    write_llama_embedder(tmp_path)
    (tmp_path / "config_sentence_transformers.json").write_text(text)
    witness = embeds_llama(tmp_path)  # nobody reads the file without a modules.json
    assert witness.embed("a text", "query")[0] == witness.embed("q a text", None)[0]
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Normalize"}]')
    with pytest.raises(NoWitness, match=r"config_sentence_transformers\.json cannot be used"):
        embeds_llama(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("modules.json", "{}"),
        ("modules.json", "[{}]"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer.json", "{}"),
    ],
)
def test_a_file_that_cannot_be_read_is_no_testimony(name: str, text: str, tmp_path: Path) -> None:
    write_llama_embedder(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(NoWitness):
        embeds_llama(tmp_path)


@pytest.mark.parametrize("trained", ["[]", '{"prompt_template": 1}', '{"prompt_template": "x"}'])
def test_a_prompt_that_cannot_be_read_is_no_testimony(trained: str, tmp_path: Path) -> None:
    write_llama(tmp_path)
    (tmp_path / "training.json").write_text(trained)
    written = json.loads((tmp_path / "config.json").read_bytes())
    with pytest.raises(NoWitness, match=r"training\.json"):
        rank_witness(tmp_path, tmp_path, written, None)


def test_a_folder_without_a_witness_says_so_everywhere(
    tiny_llama_checkpoint: Path,
    rank_artifact: Path,
    ready_graph: ReadyGraph,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def none(*_: object) -> None:
        raise NoWitness("its class is unknown")

    ready_graph(rank_artifact)
    monkeypatch.setattr(reference, "rank_witness", none)
    out = tmp_path / "out"
    with pytest.raises(NoWitness, match=r"its class is unknown; .* --unwitnessed"):
        export(str(tiny_llama_checkpoint), out, ExportArgs())
    assert not out.exists()
    assert main(["export", str(tiny_llama_checkpoint), "--out", str(out), "--unwitnessed"]) == 0
    assert "compared with itself (not witnessed: its class is unknown)" in capsys.readouterr().out
    for found in (read_manifest(out).witness, read_report(out).witness):
        assert found == "not witnessed: its class is unknown"
    verify(out, str(tiny_llama_checkpoint), None)


def test_a_witness_that_loads_and_cannot_answer_is_none(tmp_path: Path) -> None:
    """sentence-transformers pads even a pair that stands alone."""
    write_bert(tmp_path)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        settings = json.loads((tmp_path / name).read_bytes())
        (tmp_path / name).write_text(json.dumps(settings | {"pad_token": None}))
    checkpoint = read_checkpoint(str(tmp_path))
    profile = choose_profile("bert-cross-encoder", checkpoint.architecture)
    found = draft(checkpoint, profile, load_target_profile("cpu-fp32"))
    with pytest.raises(NoWitness, match=r"cannot score a pair .* --unwitnessed"):
        reference.ask_witness(found, checkpoint)
    answers = reference.ask_witness(found, checkpoint, unwitnessed=True)
    assert answers.witness.startswith("not witnessed: sentence-transformers cannot score a pair")


def test_another_activation_than_the_loaders_is_refused(tmp_path: Path) -> None:
    """A present null ends sentence-transformers' search."""
    identity = "torch.nn.modules.linear.Identity"
    message = {"sentence_transformers": {"activation_fn": None}}
    write_bert(tmp_path, sbert_ce_default_activation_function=identity, **message)
    assert ranks(tmp_path).activation == "sigmoid"
    checkpoint = read_checkpoint(str(tmp_path))
    assert checkpoint.activation == "sigmoid"
    profile = choose_profile("bert-cross-encoder", checkpoint.architecture)
    found = draft(checkpoint, profile, load_target_profile("cpu-fp32"))
    other = msgspec.structs.replace(found.manifest, activation="identity")
    with pytest.raises(CheckpointRefused, match="a relevance by sigmoid, the exporter reads ident"):
        reference.ask_witness(replace(found, manifest=other), checkpoint)


def test_a_witness_that_disagrees_is_located(
    tiny_llama_checkpoint: Path,
    rank_artifact: Path,
    ready_graph: ReadyGraph,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    honest = reference.rank_witness

    def other(*given: Any) -> RankWitness:
        witness = honest(*given)
        values = witness.values
        monkeypatch.setattr(witness, "values", lambda tokens: values(tokens) + 0.5)
        return witness

    ready_graph(rank_artifact)
    monkeypatch.setattr(reference, "rank_witness", other)
    arguments = ["export", str(tiny_llama_checkpoint), "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert "own PyTorch model differs from the witness as well" in capsys.readouterr().err


def test_a_graph_that_disagrees_is_located(
    tiny_llama_checkpoint: Path,
    rank_artifact: Path,
    ready_graph: ReadyGraph,
    tmp_path: Path,
) -> None:
    other = write_llama(tmp_path / "other", seed=1)
    ready_graph(rank_artifact)
    with pytest.raises(ParityFailed) as failed:
        export(str(other), tmp_path / "out", ExportArgs())
    assert "the difference is in the graph or the engine" in failed.value.__notes__[0]
