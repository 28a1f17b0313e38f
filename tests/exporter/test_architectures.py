"""Our models against transformers' own, and the facts that do not depend on transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaModel

from exporter.architectures.config import Config
from exporter.architectures.pooling import POOLINGS, padding_behind, pool, visible
from exporter.architectures.rope import rotary_frequencies
from exporter.checkpoint import load_model, read_checkpoint
from tests.tiny_checkpoints import BERT, LLAMA, write_bert, write_llama

ROPE_V5 = {"rope_parameters": LLAMA["rope_scaling"] | {"rope_theta": LLAMA["rope_theta"]}}


def load(directory: Path) -> Any:
    return load_model(read_checkpoint(str(directory)))


def random_ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(2, 100, (rows, length), generator=torch.Generator().manual_seed(1))


def padded(ids: torch.Tensor, count: int, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """`ids` with `count` pad tokens on `side`, and the mask."""
    pads = torch.zeros((ids.shape[0], count), dtype=torch.int64)
    parts = [(pads, torch.zeros_like(pads)), (ids, torch.ones_like(ids))]
    if side == "right":
        parts.reverse()
    return torch.cat([p[0] for p in parts], 1), torch.cat([p[1] for p in parts], 1)


@torch.inference_mode()
def reference_llama(ours: Any, ids: torch.Tensor, *, causal: bool = False) -> torch.Tensor:
    """transformers' Llama with our weights, made bidirectional, mean-pooled and scored."""
    config = LlamaConfig(
        **{k: v for k, v in LLAMA.items() if k not in {"architectures", "model_type"}},
        vocab_size=ours.model.embed_tokens.num_embeddings,
    )
    config.is_causal = causal
    theirs = LlamaModel(config).eval()
    theirs.load_state_dict(ours.model.state_dict())
    for layer in theirs.layers:
        layer.self_attn.is_causal = causal
    states = theirs(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return ours.score(states.mean(dim=1))


@pytest.mark.parametrize("causal", [False, True])
def test_llama_gives_transformers_scores(tmp_path: Path, causal: bool) -> None:
    ours = load(write_llama(tmp_path, is_causal=causal))
    ids = random_ids(3, 90)  # longer than the rope's original maximum: all its bands matter
    with torch.inference_mode():
        found = ours(ids, torch.ones_like(ids))
    torch.testing.assert_close(found, reference_llama(ours, ids, causal=causal), atol=2e-6, rtol=0)


def test_both_rope_spellings_mean_the_same() -> None:
    v5 = {k: v for k, v in LLAMA.items() if not k.startswith("rope")} | ROPE_V5
    assert torch.equal(rotary_frequencies(Config(LLAMA), 16), rotary_frequencies(Config(v5), 16))


def test_rope_scaling_is_honoured() -> None:
    plain = LLAMA | {"rope_scaling": None}
    assert not torch.equal(
        rotary_frequencies(Config(LLAMA), 16), rotary_frequencies(Config(plain), 16)
    )


def test_temperature_divides_the_logit(tmp_path: Path) -> None:
    ids = random_ids(1, 9)
    one = load(write_llama(tmp_path / "one"))(ids, torch.ones_like(ids))
    four = load(write_llama(tmp_path / "four", temperature=4.0))(ids, torch.ones_like(ids))
    torch.testing.assert_close(four * 4, one)


def test_bert_gives_transformers_scores(tiny_bert_checkpoint: Path) -> None:
    ours = load(tiny_bert_checkpoint)
    vocabulary = ours.bert.embeddings.word_embeddings.num_embeddings
    config = BertConfig(**BERT | {"vocab_size": vocabulary, "num_labels": 1})
    theirs = BertForSequenceClassification(config).eval()
    theirs.load_state_dict(ours.state_dict())
    ids = random_ids(3, 40)
    types = (torch.arange(40) > 12).long().expand(3, 40)
    mask = torch.ones_like(ids)
    mask[1, 25:] = 0
    with torch.inference_mode():
        found = ours(ids, mask, types)
        wanted = theirs(ids, attention_mask=mask, token_type_ids=types).logits
        untyped = ours(ids, mask, torch.zeros_like(types))
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=0)
    assert (found - untyped).abs().min() > 1e-3


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_bert_activations(tmp_path: Path, activation: str) -> None:
    ours = load(write_bert(tmp_path, hidden_act=activation))
    vocabulary = ours.bert.embeddings.word_embeddings.num_embeddings
    settings = BERT | {"vocab_size": vocabulary, "num_labels": 1, "hidden_act": activation}
    theirs = BertForSequenceClassification(BertConfig(**settings)).eval()
    theirs.load_state_dict(ours.state_dict())
    ids = random_ids(2, 12)
    args = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    with torch.inference_mode():
        torch.testing.assert_close(ours(*args), theirs(*args).logits, atol=2e-6, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_changes_no_score(tmp_path: Path, pooling: str, causal: bool, side: str) -> None:
    model = load(write_llama(tmp_path, pooling=pooling, is_causal=causal))
    ids = random_ids(2, 11)
    with torch.inference_mode():
        alone = model(ids, torch.ones_like(ids))
        with_pads = model(*padded(ids, 6, side))
        model.body.narrow = True
        narrow = model(*padded(ids, 6, side))
    torch.testing.assert_close(with_pads, alone, atol=5e-6, rtol=0)
    torch.testing.assert_close(narrow, alone, atol=5e-6, rtol=0)


@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_the_last_layer_computes_the_pooled_token_alone(tmp_path: Path, pooling: str) -> None:
    model = load(write_llama(tmp_path, pooling=pooling))
    rows = []
    hook = lambda _, given: rows.append(given[0].shape[1])  # noqa: E731
    model.model.layers[-1].mlp.register_forward_pre_hook(hook)
    for narrow in (False, True):
        model.body.narrow = narrow
        model(random_ids(2, 9), torch.ones(2, 9, dtype=torch.int64))
    assert rows == [9, 1]


@pytest.mark.parametrize(("pooling", "wanted"), [("avg", 2.0), ("cls", 1.0), ("last", 3.0)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_pooling_goes_by_each_rows_own_mask(pooling: str, wanted: float, side: str) -> None:
    real = torch.tensor([[1, 2, 3]])
    values, mask = padded(real, 2, side)
    other, other_mask = padded(real, 2, "left" if side == "right" else "right")
    states = torch.cat([values, other]).unsqueeze(-1).float()
    found = pool(states, torch.cat([mask, other_mask]), pooling)
    assert found.tolist() == [[wanted], [wanted]]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_row_of_padding_alone_is_finite(tmp_path: Path, pooling: str) -> None:
    model = load(write_llama(tmp_path, pooling=pooling))
    ids = random_ids(2, 5)
    mask = torch.stack([torch.ones(5), torch.zeros(5)]).long()
    for narrow in (False, True):
        model.body.narrow = narrow
        with torch.inference_mode():
            assert torch.isfinite(model(ids, mask)).all()


def test_every_token_sees_itself() -> None:
    mask = torch.tensor([[0, 0, 1, 1]])
    assert visible(mask)[0, 0].diagonal().all()
    assert visible(mask)[0, 0, 2].tolist() == [False, False, True, True]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_moved_behind_each_row(side: str) -> None:
    ids, mask = padding_behind(*padded(torch.tensor([[3, 4, 5]]), 2, side))
    assert ids.tolist() == [[3, 4, 5, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 0, 0]]


@pytest.mark.parametrize("write", [write_llama, write_bert])
def test_half_precision_rounds_only_the_large_products(tmp_path: Path, write: Any) -> None:
    model = load(write(tmp_path)).halve(torch.float16)
    kept = {name for name, p in model.named_parameters() if p.dtype == torch.float32}
    names = dict(model.named_parameters())
    assert {
        n for n in names if "norm" in n.lower() or n.startswith(("score", "classifier"))
    } <= kept
    halved = set(names) - kept
    assert halved
    assert all("layer" in n or "embed" in n for n in halved)
    assert getattr(model, "frequencies", torch.zeros(1)).dtype == torch.float32
