"""The order of work: ``python -m embedded [--work DIR] [--seed N] [--out DIR]``."""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from embedded import bpe, card, groups, initial, measure, teacher, texts, train, train_embedder
from embedded.model import SHAPE, Embedder, Ranker, save
from embedded.stages import Stages
from embedded.texts import Passage
from runtime.errors import OutputRefused
from runtime.outputs import atomic_directory, exit_on_refusal, foreign_file
from runtime.telemetry import disable_telemetry

POOL, QUERIES_PER_PASSAGE, SHORT_POOL = 16_000, 2, 12_000
TOKENIZER_PASSAGES, LSA_PASSAGES = 40_000, 60_000
_FILES = {
    "README.md",
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def _vectors(material: groups.Material) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's unit vectors of all pool passages and all queries."""
    return (
        teacher.embed(material.pool, teacher.PASSAGE_TOKENS),
        teacher.embed(material.queries, teacher.QUERY_TOKENS),
    )


def _short(passages: list[Passage], seed: int) -> groups.Material:
    """Short queries over short passages, from texts that the first training did not use."""
    short = groups.shorten(passages[::-1], random.Random(seed))
    return groups.make(short, SHORT_POOL, 1, seed, groups.make_short_query)


def _first(table: np.ndarray, source: train.Source, seed: int) -> dict[str, torch.Tensor]:
    """The weights after the first training, starting from the constructed weights."""
    ranker = Ranker()
    initial.start(ranker, table, seed)
    return train.train(ranker, train.FIRST, source, bm25_only=train.BM25_ONLY).state_dict()


def _second(
    weights: dict[str, torch.Tensor], source: train.Source, short: train.Source
) -> dict[str, torch.Tensor]:
    """The weights after the second training, longer rows, with short texts mixed in."""
    ranker = Ranker()
    ranker.load_state_dict(weights)
    return train.train(ranker, train.SECOND, source, short).state_dict()


def _write(place: Path, tokenizer: Tokenizer, model: Ranker | Embedder, text: str) -> None:
    """Write the checkpoint and its card to `place` atomically."""
    with atomic_directory(place, "embedded", _refuse_foreign) as new:
        save(model, new)
        bpe.save(tokenizer, new, SHAPE["max_position_embeddings"])
        (new / "README.md").write_text(text, encoding="utf-8")


def _refuse_foreign(place: Path) -> None:
    """Raise OutputRefused unless `place` is absent, or contains only files that this wrote."""
    if place.exists() and not place.is_dir():
        raise OutputRefused(f"{place} is no directory; name another --out")
    if foreign := foreign_file(place, _FILES):
        raise OutputRefused(f"{place} holds {foreign}, no checkpoint's file; name another --out")


def main() -> None:
    """Make the embedded checkpoints, ranker and embedder, from Debian documentation."""
    parser = argparse.ArgumentParser(prog="python -m embedded", description=main.__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/embedded"))
    parser.add_argument("--out", type=Path, default=Path("embedded"))
    parser.add_argument("--seed", type=int, default=1)
    # More threads than free cores would contend: 4 s a step instead of 1 on a busy machine.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--beir", type=Path, default=Path("../shared/data/cranfield"))
    chosen = parser.parse_args()
    for name in ("rank", "embed"):
        _refuse_foreign(chosen.out / name)
    disable_telemetry()
    torch.set_num_threads(chosen.threads)
    stages = Stages(chosen.work / f"seed-{chosen.seed}")
    shared = _shared(stages, chosen.work, chosen.seed)
    _make_ranker(stages, shared, chosen)
    _make_embedder(stages, shared, chosen)


@dataclass
class _Shared:
    """The inputs of both trainings."""

    sources: dict[str, str]
    passages: list[Passage]
    tokenizer: Tokenizer
    table: np.ndarray
    material: groups.Material
    vectors: tuple[np.ndarray, np.ndarray]

    @property
    def texts(self) -> list[str]:
        """The passages in the form that LSA and rarity count."""
        return [passage.text for passage in self.passages[:LSA_PASSAGES]]


def _shared(stages: Stages, work: Path, seed: int) -> _Shared:
    sources = stages.keep("fetch", lambda: texts.fetch(work))
    passages = stages.keep("passages", lambda: texts.collect(work, seed))
    plain = [passage.text for passage in passages]
    tokenizer = stages.keep("tokenizer", lambda: bpe.train(plain[:TOKENIZER_PASSAGES], seed))
    table = stages.keep(
        "embeddings", lambda: initial.embeddings(tokenizer, plain[:LSA_PASSAGES], seed)
    )
    material = stages.keep("groups", lambda: groups.make(passages, POOL, QUERIES_PER_PASSAGE, seed))
    vectors = stages.keep("teacher", lambda: _vectors(material))
    return _Shared(sources, passages, tokenizer, table, material, vectors)


def _make_ranker(stages: Stages, shared: _Shared, chosen: argparse.Namespace) -> None:
    seed, tokenizer = chosen.seed, shared.tokenizer
    source = train.Source(shared.material, *shared.vectors, tokenizer, seed)
    weights = stages.keep("training", lambda: _first(shared.table, source, seed))
    few = stages.keep("short groups", lambda: _short(shared.passages, seed))
    few_vectors = stages.keep("short teacher", lambda: _vectors(few))
    source = train.Source(shared.material, *shared.vectors, tokenizer, seed + 1)
    short = train.Source(few, *few_vectors, tokenizer, seed)
    weights = stages.keep("second training", lambda: _second(weights, source, short))

    ranker = Ranker().eval()
    ranker.load_state_dict(weights)
    figures = _measured(
        stages, "measure", chosen.beir, lambda: measure.rerank(chosen.beir, ranker, tokenizer)
    )
    examples = measure.examples(ranker, tokenizer)
    text = card.write_ranker(
        common=_common(stages, shared, ranker, seed),
        longest=train.SECOND.lengths[-1][1],
        figures=figures,
        examples=examples,
    )
    _write(chosen.out / "rank", tokenizer, ranker, text)
    print(figures, *examples, sep="\n")


def _make_embedder(stages: Stages, shared: _Shared, chosen: argparse.Namespace) -> None:
    tokenizer = shared.tokenizer
    pairs = train_embedder.Pairs(shared.material, *shared.vectors, tokenizer, chosen.seed)
    words = stages.keep(
        "words",
        lambda: train_embedder.train_words(shared.table, tokenizer, shared.texts, pairs),
    )
    weights = stages.keep(
        "whole embedder", lambda: train_embedder.train_whole(words, pairs).state_dict()
    )

    embedder = Embedder().eval()
    embedder.load_state_dict(weights)
    figures = _measured(
        stages,
        "measure embedder",
        chosen.beir,
        lambda: measure.retrieve(chosen.beir, embedder, tokenizer),
    )
    text = card.write_embedder(
        common=_common(stages, shared, embedder, chosen.seed),
        longest=train_embedder.WHOLE.lengths[-1][1],
        figures=figures,
    )
    _write(chosen.out / "embed", tokenizer, embedder, text)
    print(figures)


def _measured(
    stages: Stages, name: str, beir: Path, make: Callable[[], dict[str, float]]
) -> dict[str, float]:
    if beir.is_dir():
        return stages.keep(name, make)
    print(f"no folder {beir}: nDCG@10 not measured")
    return {}


def _common(stages: Stages, shared: _Shared, model: torch.nn.Module, seed: int) -> card.Common:
    return card.Common(
        seed=seed,
        parameters=sum(weight.numel() for weight in model.parameters()),
        vocabulary=shared.tokenizer.get_vocab_size(),
        cores=os.cpu_count() or 1,
        seconds=stages.seconds(),
        sources=shared.sources,
    )


if __name__ == "__main__":
    with exit_on_refusal():
        main()
