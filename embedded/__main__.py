"""The order of work: ``python -m embedded [--work DIR] [--seed N] [--out DIR]``."""

from __future__ import annotations

import argparse
import os
import random
import shutil
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from embedded import bpe, card, groups, initial, measure, teacher, texts, train
from embedded.model import SHAPE, Ranker, load, save
from embedded.stages import Stages
from embedded.texts import Passage

POOL, QUERIES_PER_PASSAGE, SHORT_POOL = 16_000, 2, 12_000
TOKENIZER_PASSAGES, LSA_PASSAGES = 40_000, 60_000


def _vectors(material: groups.Material) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's unit vectors of all pool passages and all queries."""
    return (
        teacher.embed(material.pool, teacher.PASSAGE_TOKENS),
        teacher.embed(material.queries, teacher.QUERY_TOKENS),
    )


def _short(passages: list[Passage], seed: int) -> groups.Material:
    """Short queries over short passages, from texts that the first training did not prefer."""
    short = groups.shorten(passages[::-1], random.Random(seed))
    return groups.make(short, SHORT_POOL, 1, seed, groups.make_short_query)


def _first(table: np.ndarray, source: train.Source, seed: int) -> dict[str, torch.Tensor]:
    """The weights after the first training, which starts from the made weights."""
    ranker = Ranker()
    initial.start(ranker, table, seed)
    return train.train(ranker, train.FIRST, source).state_dict()


def _second(
    weights: dict[str, torch.Tensor], source: train.Source, short: train.Source
) -> dict[str, torch.Tensor]:
    """The weights after the second training, longer rows, with short texts mixed in."""
    ranker = Ranker()
    ranker.load_state_dict(weights)
    return train.train(ranker, train.SECOND, source, short).state_dict()


def _write(folder: Path, tokenizer: Tokenizer, weights: dict[str, torch.Tensor]) -> Ranker:
    """Write the checkpoint and read it back, so that what is measured is what is stored."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ranker = Ranker()
    ranker.load_state_dict(weights)
    save(ranker, folder)
    bpe.save(tokenizer, folder, SHAPE["max_position_embeddings"])
    return load(folder)


def _replace(new: Path, place: Path) -> None:
    """Move the finished folder into place; there is never a half-written one."""
    old = place.with_name(place.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    """Make the embedded checkpoint from Debian documentation."""
    parser = argparse.ArgumentParser(prog="python -m embedded", description=main.__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/embedded"))
    parser.add_argument("--out", type=Path, default=Path("embedded/rank"))
    parser.add_argument("--seed", type=int, default=1)
    # More threads than free cores wait for each other: 4 s a step instead of 1 on a busy machine.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--beir", type=Path, default=Path("../shared/data/cranfield"))
    chosen = parser.parse_args()
    seed, work = chosen.seed, chosen.work
    torch.set_num_threads(chosen.threads)
    stages = Stages(work / f"seed-{seed}")

    sources = stages.keep("fetch", lambda: texts.fetch(work))
    passages = stages.keep("passages", lambda: texts.collect(work, seed))
    plain = [passage.text for passage in passages]
    tokenizer = stages.keep("tokenizer", lambda: bpe.train(plain[:TOKENIZER_PASSAGES], seed))
    table = stages.keep(
        "embeddings", lambda: initial.embeddings(tokenizer, plain[:LSA_PASSAGES], seed)
    )
    material = stages.keep("groups", lambda: groups.make(passages, POOL, QUERIES_PER_PASSAGE, seed))
    vectors = stages.keep("teacher", lambda: _vectors(material))
    source = train.Source(material, *vectors, tokenizer, seed)
    weights = stages.keep("training", lambda: _first(table, source, seed))
    few = stages.keep("short groups", lambda: _short(passages, seed))
    few_vectors = stages.keep("short teacher", lambda: _vectors(few))
    source = train.Source(material, *vectors, tokenizer, seed + 1)
    short = train.Source(few, *few_vectors, tokenizer, seed)
    weights = stages.keep("second training", lambda: _second(weights, source, short))

    new = chosen.out.with_name(chosen.out.name + ".new")
    ranker = _write(new, tokenizer, weights)
    figures = {}
    if chosen.beir.is_dir():
        figures = stages.keep("measure", lambda: measure.rerank(chosen.beir, ranker, tokenizer))
    else:
        print(f"no folder {chosen.beir}: nDCG@10 not measured")
    examples = measure.examples(ranker, tokenizer)
    text = card.write(
        seed=seed,
        parameters=sum(weight.numel() for weight in ranker.parameters()),
        vocabulary=tokenizer.get_vocab_size(),
        longest=train.SECOND.lengths[-1][1],
        cores=os.cpu_count() or 1,
        seconds=stages.seconds(),
        figures=figures,
        examples=examples,
        sources=sources,
    )
    (new / "README.md").write_text(text, encoding="utf-8")
    _replace(new, chosen.out)
    print(figures, *examples, sep="\n")


if __name__ == "__main__":
    main()
