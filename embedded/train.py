"""Distillation into the tiny ranker: first BM25's order, then mostly the teacher's cosines.

One step draws queries, eight candidates for each, and compares the two softmax distributions.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from embedded.groups import Material
from embedded.initial import MARKER_TOKEN, classes
from embedded.loop import Plan, fit
from embedded.model import Ranker
from embedded.rows import run

CANDIDATES = 8
BM25_TEMPERATURE, COSINE_TEMPERATURE = 4.0, 0.07
NEUTRAL_COSINE = 0.35  # the cosine that should get the logit 0
SHORT_LENGTH, SHORT_EVERY = 72, 4  # most tokens of a row from the short passages; how often


@dataclass
class Draw:
    """One step: rows of token ids, and per group [groups, candidates] float32 of both teachers."""

    rows: list[np.ndarray]
    bm25: torch.Tensor
    cosine: torch.Tensor


# Short rows are cheap and teach matching; long ones show the student all that the teachers saw.
FIRST = Plan(1500, 2e-3, 10_000, ((0.0, 80), (0.45, 112), (0.7, 160), (0.9, 224)))
SECOND = Plan(1000, 1.2e-3, 16_000, ((0.0, 192), (0.5, 288)))
BM25_ONLY = 0.12  # share of the first training's steps before the teacher joins in


class Source:
    """Draws steps from the material; all randomness comes from one seeded generator."""

    def __init__(
        self,
        material: Material,
        passages: np.ndarray,
        queries: np.ndarray,
        tokenizer: Tokenizer,
        seed: int,
    ) -> None:
        """``passages`` [pool, 384] and ``queries`` [queries, 384]: the teacher's unit vectors."""
        self.material, self.passages, self.queries = material, passages, queries
        self.rng = np.random.default_rng(seed)

        def encode(texts: list[str]) -> list[np.ndarray]:
            found = tokenizer.encode_batch(texts, add_special_tokens=False)
            return [np.array(encoding.ids) for encoding in found]

        cased = [break_lines(text, random.Random(i)) for i, text in enumerate(material.pool)]
        self.pool_ids = (encode(cased), encode([text.lower() for text in material.pool]))
        self.query_ids = encode(material.queries)
        self.before, self.after = encode(["question:", " \n \n passage:"])
        self.bos = tokenizer.token_to_id("<|begin_of_text|>")
        self.classes = classes(tokenizer)
        fixed = {*self.before, *self.after, tokenizer.token_to_id(MARKER_TOKEN)}
        used = np.bincount(np.concatenate(self.pool_ids[0]), minlength=len(self.classes))
        letters = [tokenizer.id_to_token(i).lstrip("Ġ").isalpha() for i in range(len(used))]
        free = np.array([i not in fixed for i in range(len(used))])
        self.rare = np.flatnonzero(np.array(letters) & free & (used < np.median(used)))
        self.replaceable = free & (used < np.quantile(used, 0.985))

    def _candidates(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """Pool indices and BM25 scores [8]: own or first, three near, two far, two random."""
        top, scores = self.material.top[query], self.material.top_scores[query]
        near = self.rng.choice(12, 4, replace=False)
        far = 12 + self.rng.choice(len(top) - 12, 2, replace=False)
        places = np.concatenate([[0], near[near != 0][:3], far])
        own = self.material.own[query]
        chance = self.rng.integers(len(self.material.pool), size=2)
        chosen = np.concatenate([top[places], chance])
        found = np.concatenate([scores[places], np.zeros(2, np.float32)])
        if own not in chosen and own in top and self.rng.random() < 0.5:
            chosen[0], found[0] = own, scores[list(top).index(own)]
        return chosen, found

    def _replacement(self, query: np.ndarray) -> np.ndarray:
        """A map token -> token that makes some of the query's words rare ones, on both sides."""
        table = np.arange(len(self.classes))
        for token in query[self.replaceable[query]]:
            if self.rng.random() < 0.6:
                table[self.classes == self.classes[token]] = self.rng.choice(self.rare)
        return table

    def draw(self, groups: int, most_tokens: int) -> Draw:
        """``groups`` queries with their candidates, each row cut at ``most_tokens``."""
        rows, bm25, cosine = [], [], []
        for query in self.rng.integers(len(self.query_ids), size=groups):
            chosen, found = self._candidates(int(query))
            pool = self.pool_ids[int(self.rng.random() < 0.4)]
            ids = self.query_ids[query]
            table = self._replacement(ids) if self.rng.random() < 1 / 3 else None
            head = np.concatenate([[self.bos], self.before, ids[:40], self.after])
            for index in chosen:
                row = np.concatenate([head, pool[index]])[:most_tokens]
                rows.append(row if table is None else table[row])
            bm25.append(found)
            cosine.append(self.passages[chosen] @ self.queries[query])
        return Draw(rows, torch.tensor(np.array(bm25)), torch.tensor(np.array(cosine)))


def break_lines(text: str, rng: random.Random) -> str:
    """One passage in six gets line breaks between its sentences, like real ones."""
    return text.replace(". ", rng.choice((".\n", ".\n\n"))) if rng.random() < 1 / 6 else text


def loss_of(logits: torch.Tensor, draw: Draw, with_teacher: bool) -> torch.Tensor:
    """Divergence from both teachers; a pointwise term puts logit 0 between yes and no."""
    logits = logits.view_as(draw.cosine)
    ours = torch.log_softmax(logits, -1)

    def divergence(target: torch.Tensor) -> torch.Tensor:
        return nn.functional.kl_div(ours, target.softmax(-1), reduction="batchmean")

    lexical = divergence(draw.bm25 / BM25_TEMPERATURE)
    if not with_teacher:
        return lexical + 1e-3 * logits.square().mean()
    relevance = torch.sigmoid((draw.cosine - NEUTRAL_COSINE) / COSINE_TEMPERATURE)
    pointwise = nn.functional.binary_cross_entropy_with_logits(logits, relevance)
    return 0.3 * lexical + divergence(draw.cosine / COSINE_TEMPERATURE) + 0.2 * pointwise


def train(
    ranker: Ranker, plan: Plan, source: Source, short: Source | None = None, bm25_only: float = 0.0
) -> Ranker:
    """Train in place; return the averaged weights as a separate ranker.

    With ``short``, every fourth step draws from it. ``bm25_only`` is the share of the steps before
    the teacher is used.
    """

    def loss_at(step: int) -> torch.Tensor:
        now, most = source, plan.most_tokens(step)
        if short is not None and step % SHORT_EVERY == 0:
            now, most = short, SHORT_LENGTH
        draw = now.draw(max(2, plan.step_tokens // (CANDIDATES * most)), most)
        return loss_of(run(ranker, draw.rows), draw, step >= bm25_only * plan.steps)

    return fit(ranker, plan, loss_at)
