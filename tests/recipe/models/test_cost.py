"""Tokens and memory that a training says it takes, beside what it takes."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from exporter.checkpoint import read_checkpoint
from recipe.training.checkpoint import PairBatcher, load_for_transformers
from recipe.training.cost import Autocast, count_tokens, memory
from recipe.training.examples import Examples
from recipe.training.groups import Group
from recipe.training.losses import collate
from recipe.training.trainer import FullBatches
from tests.recipe.models.material import TEMPLATE


def test_the_tokens_are_those_of_the_batches(tiny_llama_checkpoint: Path) -> None:
    batcher = PairBatcher(read_checkpoint(str(tiny_llama_checkpoint)), TEMPLATE, 40)
    groups = [Group(f"q{n}", "what", ("short", "longer " * n, "x " * 2 * n)) for n in range(19)]
    examples, order = Examples(groups, 3, 0), FullBatches(19, 4, 0)
    found = count_tokens(batcher, examples, order, 2)
    places = list(order)
    batches = [
        collate(batcher, [examples[place] for place in places[start : start + 2]])
        for start in range(0, len(places), 2)
    ]
    assert found.examples == len(places) == 16
    assert found.computed == sum(batch["input_ids"].numel() for batch in batches)
    assert found.real == sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert found.longest == max(batch["input_ids"].shape[1] for batch in batches) == 40
    assert f"about {3 * found.computed:,} tokens in 3 epoch(s)" in found.said(16, 3)
    # Of more examples than were looked at.
    assert f"about {30 * found.computed:,} tokens" in found.said(160, 3)
    assert "by the first 16 examples" in found.said(160, 3)


def half() -> Any:
    """A block that computes in bfloat16, as a GPU does; it keeps copies of the weights."""
    return torch.autocast("cpu", dtype=torch.bfloat16)


def kept_bytes(model: Any, rows: int, tokens: int, autocast: Autocast = nullcontext) -> int:
    own = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.ones((rows, tokens), dtype=torch.int64)
    with saved_tensors_hooks(keep, lambda tensor: tensor), autocast():
        _output = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        return sum(size for place, size in kept.items() if place not in own)


@pytest.mark.parametrize(
    ("attention", "autocast"), [("sdpa", nullcontext), ("eager", nullcontext), ("sdpa", half)]
)
def test_the_activations_are_what_autograd_keeps(
    tiny_llama_checkpoint: Path, attention: str, autocast: Autocast
) -> None:
    model: Any = load_for_transformers(
        read_checkpoint(str(tiny_llama_checkpoint)), attention=attention
    )
    need = memory(model, autocast, 6, 200, recomputes=False)
    assert need.activations == pytest.approx(kept_bytes(model, 6, 200, autocast), rel=0.03)
    count = sum(one.numel() for one in model.parameters())
    assert need.total == 16 * count + need.activations
    # Of a frozen weight there is neither gradient nor moment, and less is kept for it.
    for name, one in model.named_parameters():
        one.requires_grad = "q_proj" in name
    frozen = memory(model, autocast, 6, 200, recomputes=False)
    assert frozen.trained == sum(p.numel() for p in model.parameters() if p.requires_grad) < count
    assert frozen.activations < need.activations
    assert frozen.activations == pytest.approx(kept_bytes(model, 6, 200, autocast), rel=0.03)


def test_recomputed_layers_keep_their_inputs_and_one_layers_activations(
    tiny_llama_checkpoint: Path,
) -> None:
    model: Any = load_for_transformers(read_checkpoint(str(tiny_llama_checkpoint)))
    whole = memory(model, nullcontext, 6, 200, recomputes=False).activations
    need = memory(model, nullcontext, 6, 200, recomputes=True).activations
    layer = whole / model.config.num_hidden_layers
    assert need == pytest.approx(layer + kept_bytes(model, 6, 200), rel=0.03)
    assert need < whole


def test_looking_draws_no_random_number(tiny_bert_checkpoint: Path) -> None:
    model = load_for_transformers(read_checkpoint(str(tiny_bert_checkpoint)))
    assert any(isinstance(one, torch.nn.Dropout) and one.p for one in model.modules())
    state = torch.random.get_rng_state()
    assert memory(model, nullcontext, 2, 32, recomputes=False).activations
    assert torch.equal(torch.random.get_rng_state(), state)
