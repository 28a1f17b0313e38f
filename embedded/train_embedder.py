"""Distillation into the tiny embedder, from 16 dimensions up (Matryoshka).

One step draws queries with their own passage and three of BM25's. It compares, for every query, the
softmax over all passages of the step with that of the teacher's cosines, at 16, 32, 64 and 128
dimensions at once. No passage needs a negative label: the teacher's cosine says how near each is.

First word vectors are trained: a text's vector is the mean of its tokens'. That is a hundred times
faster than training the whole model, which gives exactly that mean while its layers add nothing.
Then the layers are trained gently above fixed words; trained together, they would
degrade the words.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from embedded.fit import Batch, Model, Plan, fit
from embedded.groups import Taught
from embedded.initial import MEANING, idf_of
from embedded.model import HIDDEN, mean_states, new_embedder, run

SIZES = (16, 32, 64, 128)
PASSAGES = 4  # of each query: its own, and BM25's
TEMPERATURE = 0.05  # of both, the teacher's cosines and ours
OWN = 0.2  # share of the target that the query's own passage gets beside the teacher's share
QUERY_TOKENS = 48
LAST_NEAR = 20  # BM25's candidates are drawn from its first 20

WORDS = Plan(1500, 8e-3, 130_000, ((0.0, 128),))
WHOLE = Plan(160, 1.6e-4, 13_000, ((0.0, 64), (0.7, 128)))

# Ratio of token vectors to a layer's initial contribution; the norms remove it again.
LOUD = 16.0
# The last dimension has no meaning, see `install`.
_NOTHING = HIDDEN - 1


class Pairs(Taught):
    """Draws steps for the embedder."""

    query_prefix, passage_prefix = "query: ", "passage: "

    def draw(self, step: int, queries: int, most_tokens: int) -> Batch:
        """Rows of queries [q] and of passages [4 q], and the target [q, 4 q], rows summing to 1."""
        rng, material, vectors = self.rng(step), self.material, self.vectors
        asked = rng.integers(len(self.query_ids), size=queries)
        near = rng.integers(LAST_NEAR, size=(queries, PASSAGES - 1))
        chosen = np.concatenate(
            [material.own[asked][:, None], material.top[asked[:, None], near]], axis=1
        ).ravel()
        case = rng.random(len(chosen)) < 0.4
        rows = [self.pool_ids[int(c)][i][:most_tokens] for i, c in zip(chosen, case, strict=True)]
        cosine = torch.from_numpy(vectors[1][asked] @ vectors[0][chosen].T)
        own = torch.from_numpy(chosen[None, :] == material.own[asked][:, None]).float()
        target = (cosine / TEMPERATURE).softmax(-1)
        target = (1 - OWN) * target + OWN * own / own.sum(-1, keepdim=True)
        asked_ids = [self.query_ids[i][:QUERY_TOKENS] for i in asked]
        return {"queries": asked_ids, "passages": rows, "target": target}


def loss_of(queries: Tensor, passages: Tensor, target: Tensor) -> Tensor:
    """The mean over all sizes of the divergence from the target."""
    parts = []
    for size in SIZES:
        asked = nn.functional.normalize(queries[:, :size], dim=-1)
        found = nn.functional.normalize(passages[:, :size], dim=-1)
        ours = (asked @ found.T / TEMPERATURE).log_softmax(-1)
        parts.append(nn.functional.kl_div(ours, target, reduction="batchmean"))
    return torch.stack(parts).mean()


def train_words(table: np.ndarray, texts: list[str], pairs: Pairs, folder: Path) -> np.ndarray:
    """A vector for every token, float32 [vocabulary, 127], from LSA vectors scaled by rarity."""
    rarity = np.clip(idf_of(pairs.tokenizer, texts) / 8.0, 0.02, 1.0)[:, None]
    first = np.zeros((len(table), _NOTHING), np.float32)
    first[:, :MEANING] = table[:, :MEANING] * rarity
    first[pairs.tokenizer.token_to_id("<|begin_of_text|>")] = 0
    words = nn.EmbeddingBag.from_pretrained(torch.from_numpy(first), freeze=False, mode="mean")
    return _fit(words, WORDS, pairs, lambda bag, rows: bag(*_flat(rows)), folder).weight.numpy(
        force=True
    )


def install(embedder: nn.Module, words: np.ndarray) -> None:
    """Make the embedder return the mean of `words`.

    Its norms give every token the same length; so each token gets the rest of a common length in
    the last dimension, which the last norm drops. The layers add nothing yet.
    """
    longest = np.linalg.norm(words, axis=1).max()
    rows = np.zeros((len(words), HIDDEN), np.float32)
    rows[:, :_NOTHING] = words * (0.999 / longest)
    rows[:, _NOTHING] = np.sqrt(1 - np.square(rows).sum(1))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in embedder.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight.zero_()
            elif weight.dim() == 2:
                noise = torch.randn(weight.shape, generator=generator)
                weight.copy_(noise / weight.shape[1] ** 0.5)
        embedder.embed_tokens.weight.copy_(torch.from_numpy(LOUD * rows))
        embedder.norm.weight[_NOTHING] = 0


def train_whole(words: np.ndarray, pairs: Pairs, folder: Path) -> nn.Module:
    """The whole model: the words, and layers trained on top of them."""
    embedder = new_embedder()
    install(embedder, words)
    for kept in (embedder.embed_tokens.weight, embedder.norm.weight):
        kept.requires_grad_(False)

    def vectors(model: nn.Module, rows: list[np.ndarray]) -> Tensor:
        return run(lambda ids, mask: mean_states(model, ids, mask), rows)

    return _fit(embedder, WHOLE, pairs, vectors, folder)


def _fit(
    model: Model,
    plan: Plan,
    pairs: Pairs,
    vectors: Callable[[nn.Module, list[np.ndarray]], Tensor],
    folder: Path,
) -> Model:
    def draw(step: int) -> Batch:
        most = plan.most_tokens(step)
        return pairs.draw(step, plan.step_tokens // (PASSAGES * most), most)

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        queries, passages = vectors(model, batch["queries"]), vectors(model, batch["passages"])
        return loss_of(queries, passages, batch["target"]), queries

    return fit(model, plan, draw, loss, folder)


def _flat(rows: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """All tokens in one row, and the offset of each text."""
    starts = np.cumsum([0, *(len(row) for row in rows[:-1])])
    return torch.from_numpy(np.concatenate(rows)), torch.from_numpy(starts)
