"""The vision models' architecture against the witness, on a checkpoint that hides no mistake; each
mistake that others have made is seen by the same tolerance."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from exporter.answers import Tokens
from exporter.architectures import nemotron_vl as architecture
from exporter.architectures.config import Config
from exporter.architectures.nemotron_vl import NemotronVLCrossEncoder, NemotronVLEmbedder
from exporter.errors import NoWitness
from exporter.witness.nemotron_vl import Sight, VisionEmbedder, VisionReranker
from runtime.errors import TextPlace
from runtime.vision.decoding import open_image
from runtime.vision.tiling import cut, pixel_values
from tests.tiny_vision import (
    EMBEDDER,
    RERANKER,
    TOKENS,
    Nesting,
    png,
    reranker_config,
    weights,
    write_vision,
)
from tests.vision_rules import TINY

TOLERANCE = 2e-5
ONE, THREE, FIVE = png(90, 90), png(200, 100), png(150, 150)
# SigLIP's unused head has no place in the architecture.
UNUSED = ".head."


def load(model: Any, config: dict[str, Any], nesting: Nesting = "twice") -> Any:
    stored = weights(config, nesting=nesting)
    named = {
        name.removeprefix("model.").replace("vision_model.vision_model.", "vision_model."): tensor
        for name, tensor in stored.items()
        if UNUSED not in name
    }
    model.load_state_dict({name: tensor.float() for name, tensor in named.items()})
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Bench:
    """A witness beside our model of the same weights."""

    witness: VisionReranker
    model: NemotronVLCrossEncoder

    def delta(
        self, query: str = "why?", text: str = "some text", data: bytes | None = THREE
    ) -> float:
        """|Δ logit| of a passage."""
        if data is None:
            tokens, wanted = self.witness.score(query, text)
            embeds = torch.zeros(0, TOKENS, 64)
        else:
            sight = self.witness.see(data)
            tokens, wanted = self.witness.score_image(query, text, sight)
            embeds = self.model.tower(torch.from_numpy(ours(data)))
        ids = torch.tensor([tokens.token_ids])
        index = torch.zeros_like(ids)
        count = len(embeds) * TOKENS
        index[0, 2 : 2 + count] = torch.arange(1, count + 1)
        found = self.model(ids, torch.ones_like(ids), index, embeds)
        return abs(found.item() - wanted.item())


def ours(data: bytes) -> np.ndarray:
    return pixel_values(cut(open_image(data, TextPlace("")).decode(), TINY))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vision(tmp_path_factory.mktemp("vision") / "rank")


def witness_of(folder: Path) -> VisionReranker:
    return VisionReranker(folder, json.loads((folder / "config.json").read_bytes()))


@pytest.fixture(scope="module")
def witness(folder: Path) -> VisionReranker:
    return witness_of(folder)


@pytest.fixture
def bench(witness: VisionReranker) -> Bench:
    return Bench(witness, load(NemotronVLCrossEncoder(Config(RERANKER)), RERANKER))


@pytest.mark.parametrize("data", [None, ONE, THREE, FIVE], ids=["text", "1", "3", "5"])
def test_logits_are_the_witness_s(bench: Bench, data: bytes | None) -> None:
    assert bench.delta(data=data) <= TOLERANCE
    if data is not None:
        assert bench.delta(text="", data=data) <= TOLERANCE


@pytest.mark.parametrize("data", [ONE, THREE, FIVE], ids=["1", "3", "5"])
def test_pixels_are_the_witness_s_and_embeddings_too(bench: Bench, data: bytes) -> None:
    sight, pixels = bench.witness.see(data), ours(data)
    assert sight.pixels.tobytes() == pixels.tobytes()
    found = bench.model.tower(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found, sight.embeds, atol=TOLERANCE, rtol=0)


def test_vectors_are_the_witness_s(tmp_path: Path) -> None:
    folder = write_vision(tmp_path, EMBEDDER)
    witness = VisionEmbedder(folder, EMBEDDER, {})
    model = load(NemotronVLEmbedder(Config(EMBEDDER)), EMBEDDER)
    sight = witness.see(THREE)
    tokens, wanted = witness.embed_image("some text", sight)
    ids = torch.tensor([tokens.token_ids])
    index = torch.zeros_like(ids)
    start, count = len("passage: ") + 2, 3 * TOKENS
    index[0, start : start + count] = torch.arange(1, count + 1)
    found = model(ids, torch.ones_like(ids), index, model.tower(torch.from_numpy(ours(THREE))))
    np.testing.assert_allclose(found[0].numpy(), wanted, atol=TOLERANCE, rtol=0)
    assert abs(np.linalg.norm(wanted) - 1) > 0.1


def test_both_nestings_are_read_by_the_witness(folder: Path, tmp_path: Path) -> None:
    once = witness_of(write_vision(tmp_path, nesting="once", head=True))
    assert np.array_equal(once.see(ONE).embeds, witness_of(folder).see(ONE).embeds)


def test_both_spellings_of_the_rope_are_read(witness: VisionReranker, tmp_path: Path) -> None:
    llm = dict(RERANKER["llm_config"])
    scaling, theta = llm.pop("rope_scaling"), llm.pop("rope_theta")
    config = RERANKER | {"llm_config": llm | {"rope_parameters": scaling | {"rope_theta": theta}}}
    again = witness_of(write_vision(tmp_path, config))
    assert again.score("q", "text") == witness.score("q", "text")
    assert Bench(witness, load(NemotronVLCrossEncoder(Config(config)), config)).delta() <= TOLERANCE


def test_padding_on_either_side_and_tiles_of_others_change_nothing(bench: Bench) -> None:
    model, rows = bench.model, []
    for data in (ONE, THREE):
        sight = bench.witness.see(data)
        rows.append((*bench.witness.score_image("why?", "text", sight), sight))
    longest = max(len(tokens.token_ids) for tokens, _, _ in rows) + 5
    embeds = torch.cat([torch.from_numpy(sight.embeds) for _, _, sight in rows])
    for side in ("left", "right"):
        ids = torch.full((2, longest), 258)
        mask, index = torch.zeros_like(ids), torch.zeros_like(ids)
        first = 1
        for number, (tokens, _, sight) in enumerate(rows):
            length, count = len(tokens.token_ids), sight.embeds.shape[0] * TOKENS
            start = longest - length if side == "left" else 0
            ids[number, start : start + length] = torch.tensor(tokens.token_ids)
            mask[number, start : start + length] = 1
            index[number, start + 2 : start + 2 + count] = torch.arange(first, first + count)
            first += count
        found = model(ids, mask, index, embeds)[:, 0].numpy()
        wanted = np.concatenate([value for _, value, _ in rows])
        np.testing.assert_allclose(found, wanted, atol=TOLERANCE, rtol=0)


# Mistakes that were found in other implementations, or are easily made, as patches of ours.
Mistake = Callable[[Bench, pytest.MonkeyPatch], object]


def erf_gelu(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    gelu = functional.gelu
    patch.setattr(functional, "gelu", lambda x, **_: gelu(x))


def tanh_projector(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    bench.model.mlp1[2] = nn.GELU(approximate="tanh")


def no_post_layernorm(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    bench.model.vision_model.post_layernorm = nn.Identity()


def projector_epsilon(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    bench.model.mlp1[0].eps = 1e-6


def no_positions(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    bench.model.vision_model.embeddings.position_embedding.weight.zero_()


def no_bias(bench: Bench, patch: pytest.MonkeyPatch, name: str) -> None:
    for layer in bench.model.vision_model.encoder.layers:
        getattr(layer.self_attn, name).bias.zero_()


def joined(axes: tuple[int, ...]) -> Mistake:
    def join(states: Tensor, side: int) -> Tensor:
        grid = states.unflatten(1, (side // 2, 2, side // 2, 2))
        return grid.permute(*axes).flatten(3).flatten(1, 2)

    return lambda _, patch: patch.setattr(architecture, "join_patches", join)


def causal(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    bench.model.language_model.causal = True


def plain_rope(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    config = reranker_config(llm_config={"rope_scaling": {"rope_type": "default"}})
    other = NemotronVLCrossEncoder(Config(config))
    bench.model.language_model.frequencies = other.language_model.frequencies


def no_temperature(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    bench.model.temperature = 1.0


def pooling_without_images(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    def pooled(*inputs: Tensor) -> Tensor:
        states = bench.model.language_model(*inputs)
        weights = (inputs[1] * (inputs[2] == 0)).float().unsqueeze(-1)
        return (states * weights).sum(1) / weights.sum(1)

    patch.setattr(bench.model, "_pooled", pooled)


def whole_pixels(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    exact = (torch.arange(256).float() / 255 - 0.5) / 0.5
    patch.setattr("runtime.vision.tiling._VALUES", exact.numpy())


def turned_tiles(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    tower = architecture.Tower.forward
    patch.setattr(
        architecture.Tower, "forward", lambda self, pixels: tower(self, pixels).roll(1, 0)
    )


def first_thumbnail(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(globals(), "cut", lambda image, rule: np.roll(cut_(image, rule), 1, axis=0))


cut_ = cut
MISTAKES: dict[str, Mistake] = {
    "erf GELU in the tower": erf_gelu,
    "tanh GELU in the projector": tanh_projector,
    "no post_layernorm": no_post_layernorm,
    "the tower's epsilon in the projector": projector_epsilon,
    "no position table": no_positions,
    **{
        f"no bias of {name}": partial(no_bias, name=name)
        # A key's bias adds the same to every score of a query, which the softmax takes away.
        for name in ("q_proj", "v_proj", "out_proj")
    },
    "pixel shuffle v1": joined((0, 3, 1, 2, 4, 5)),
    "rows and columns of four patches swapped": joined((0, 1, 3, 4, 2, 5)),
    "causal": causal,
    "no llama3 scaling": plain_rope,
    "no temperature": no_temperature,
    "pooling without image tokens": pooling_without_images,
    "pixels not rounded": whole_pixels,
    "tiles in another order": turned_tiles,
    "the thumbnail first": first_thumbnail,
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_tolerance_sees(name: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    MISTAKES[name](bench, monkeypatch)
    assert bench.delta() > 2 * TOLERANCE


def test_the_witness_refuses_rows_that_lost_image_tokens(witness: VisionReranker) -> None:
    sight: Sight = witness.see(THREE)
    tokens, _ = witness.score_image("q", "", sight)
    with pytest.raises(NoWitness, match="fewer image tokens"):
        witness.values(Tokens(tokens.token_ids[:20], None), sight)
