"""Distillation into the tiny ranker: first BM25's order, then mostly the teacher's cosines.

One step draws queries, eight candidates for each, and compares the two softmax distributions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from embedded.fit import Batch, Plan, fit
from embedded.groups import Taught
from embedded.initial import MARKER_TOKEN, classes
from embedded.model import logits, run

CANDIDATES = 8
BM25_TEMPERATURE, COSINE_TEMPERATURE = 4.0, 0.07
NEUTRAL_COSINE = 0.35  # the cosine that should get the logit 0
SHORT_LENGTH, SHORT_EVERY = 72, 4  # most tokens of a row from the short passages; how often

# Short rows are cheap and teach matching; long ones show the student all that the teachers saw.
FIRST = Plan(1500, 2e-3, 10_000, ((0.0, 80), (0.45, 112), (0.7, 160), (0.9, 224)))
SECOND = Plan(1000, 1.2e-3, 16_000, ((0.0, 192), (0.5, 288)))
BM25_ONLY = 0.12  # share of the first training's steps before the teacher joins in


class Source(Taught):
    """Draws steps for the ranker."""

    def __post_init__(self) -> None:
        super().__post_init__()
        tokenizer = self.tokenizer
        self.before, self.after = self.encode("", ["question:", " \n \n passage:"])
        self.bos = tokenizer.token_to_id("<|begin_of_text|>")
        self.classes = classes(tokenizer)
        fixed = {*self.before, *self.after, tokenizer.token_to_id(MARKER_TOKEN)}
        used = np.bincount(np.concatenate(self.pool_ids[0]), minlength=len(self.classes))
        letters = [tokenizer.id_to_token(i).lstrip("Ġ").isalpha() for i in range(len(used))]
        free = np.array([i not in fixed for i in range(len(used))])
        self.rare = np.flatnonzero(np.array(letters) & free & (used < np.median(used)))
        self.replaceable = free & (used < np.quantile(used, 0.985))

    def _candidates(self, query: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Pool indices and BM25 scores [8]: own or first, three near, two far, two random."""
        top, scores = self.material.top[query], self.material.top_scores[query]
        near = rng.choice(12, 4, replace=False)
        far = 12 + rng.choice(len(top) - 12, 2, replace=False)
        places = np.concatenate([[0], near[near != 0][:3], far])
        own = self.material.own[query]
        chance = rng.integers(len(self.material.pool), size=2)
        chosen = np.concatenate([top[places], chance])
        found = np.concatenate([scores[places], np.zeros(2, np.float32)])
        if own not in chosen and own in top and rng.random() < 0.5:
            chosen[0], found[0] = own, scores[list(top).index(own)]
        return chosen, found

    def _replacement(self, query: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A map token -> token that makes some of the query's words rare ones, on both sides."""
        table = np.arange(len(self.classes))
        for token in query[self.replaceable[query]]:
            if rng.random() < 0.6:
                table[self.classes == self.classes[token]] = rng.choice(self.rare)
        return table

    def draw(self, step: int, groups: int, most_tokens: int) -> Batch:
        """Rows of token ids, and per group [groups, candidates] float32 of both teachers."""
        rng, (passages, queries) = self.rng(step), self.vectors
        rows, bm25, cosine = [], [], []
        for query in rng.integers(len(self.query_ids), size=groups):
            chosen, found = self._candidates(int(query), rng)
            pool = self.pool_ids[int(rng.random() < 0.4)]
            ids = self.query_ids[query]
            table = self._replacement(ids, rng) if rng.random() < 1 / 3 else None
            head = np.concatenate([[self.bos], self.before, ids[:40], self.after])
            for index in chosen:
                row = np.concatenate([head, pool[index]])[:most_tokens]
                rows.append(row if table is None else table[row])
            bm25.append(found)
            cosine.append(passages[chosen] @ queries[query])
        return {"rows": rows, "bm25": _tensor(bm25), "cosine": _tensor(cosine)}


def _tensor(rows: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.array(rows))


def loss_of(logits: Tensor, batch: Batch, with_teacher: bool) -> Tensor:
    """Divergence from both teachers; a pointwise term puts logit 0 between yes and no."""
    cosine = batch["cosine"]
    logits = logits.view_as(cosine)
    ours = torch.log_softmax(logits, -1)

    def divergence(target: Tensor) -> Tensor:
        return nn.functional.kl_div(ours, target.softmax(-1), reduction="batchmean")

    lexical = divergence(batch["bm25"] / BM25_TEMPERATURE)
    if not with_teacher:
        return lexical + 1e-3 * logits.square().mean()
    relevance = torch.sigmoid((cosine - NEUTRAL_COSINE) / COSINE_TEMPERATURE)
    pointwise = nn.functional.binary_cross_entropy_with_logits(logits, relevance)
    return 0.3 * lexical + divergence(cosine / COSINE_TEMPERATURE) + 0.2 * pointwise


def train(
    ranker: nn.Module,
    plan: Plan,
    folder: Path,
    source: Source,
    short: Source | None = None,
    bm25_only: float = 0.0,
) -> nn.Module:
    """Train in place; return the averaged weights as a separate ranker.

    With ``short``, every fourth step draws from it. ``bm25_only`` is the share of the steps before
    the teacher is used. ``folder`` gets the curves.
    """

    def draw(step: int) -> Batch:
        now, most = source, plan.most_tokens(step)
        if short is not None and step % SHORT_EVERY == 0:
            now, most = short, SHORT_LENGTH
        batch = now.draw(step, max(2, plan.step_tokens // (CANDIDATES * most)), most)
        return {**batch, "with_teacher": step >= bm25_only * plan.steps}

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        found = run(lambda ids, mask: logits(model, ids, mask), batch["rows"])
        return loss_of(found, batch, batch["with_teacher"]), found

    return fit(ranker, plan, draw, loss, folder)
