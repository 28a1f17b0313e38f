"""The order of work: ``python -m embedded [--work DIR] [--seed N] [--out DIR]``."""

from __future__ import annotations

import argparse
import random
from functools import cached_property
from pathlib import Path

import torch

from embedded import bpe, card, groups, initial, measure, teacher, texts, train, train_embedder
from embedded.model import KEPT, new_ranker, save
from embedded.stages import Stages, stage
from runtime.errors import OutputRefused
from runtime.outputs import atomic_directory, exit_on_refusal, foreign_file
from runtime.telemetry import disable_telemetry

POOL, QUERIES_PER_PASSAGE, SHORT_POOL = 16_000, 2, 12_000
TOKENIZER_PASSAGES, LSA_PASSAGES = 40_000, 60_000
_FILES = {"README.md", "model.safetensors", "tokenizer.json", *KEPT}


class Making(Stages):
    """Both checkpoints of one seed."""

    def __init__(self, work: Path, seed: int, beir: Path) -> None:
        super().__init__(work / f"seed-{seed}")
        self.work, self.seed, self.beir = work, seed, beir

    @stage("fetch")
    def sources(self):
        return texts.fetch(self.work)

    @stage("passages")
    def passages(self):
        return texts.collect(self.work, self.seed)

    @cached_property
    def plain(self) -> list[str]:
        return [passage.text for passage in self.passages]

    @stage("tokenizer")
    def tokenizer(self):
        return bpe.train(self.plain[:TOKENIZER_PASSAGES], self.seed)

    @stage("embeddings")
    def table(self):
        return initial.embeddings(self.tokenizer, self.plain[:LSA_PASSAGES], self.seed)

    @stage("groups")
    def material(self):
        return groups.make(self.passages, POOL, QUERIES_PER_PASSAGE, self.seed)

    @stage("teacher")
    def vectors(self):
        return teacher.vectors(self.material)

    @stage("training")
    def first(self):
        """The ranker's weights after the first training, from the constructed weights."""
        ranker = new_ranker()
        initial.start(ranker, self.table, self.seed)
        source = train.Source(self.material, self.vectors, self.tokenizer, self.seed)
        folder = self.folder / "training"
        return train.train(
            ranker, train.FIRST, folder, source, bm25_only=train.BM25_ONLY
        ).state_dict()

    @stage("short groups")
    def short(self):
        """Short queries over short passages, from texts that the first training did not use."""
        short = groups.shorten(self.passages[::-1], random.Random(self.seed))
        return groups.make(short, SHORT_POOL, 1, self.seed, groups.make_short_query)

    @stage("short teacher")
    def short_vectors(self):
        return teacher.vectors(self.short)

    @stage("second training")
    def rank(self):
        """The ranker's weights after the second training: longer rows, and short texts."""
        ranker = new_ranker()
        ranker.load_state_dict(self.first)
        short = train.Source(self.short, self.short_vectors, self.tokenizer, self.seed)
        source = train.Source(self.material, self.vectors, self.tokenizer, self.seed + 1)
        folder = self.folder / "second training"
        return train.train(ranker, train.SECOND, folder, source, short).state_dict()

    @cached_property
    def pairs(self) -> train_embedder.Pairs:
        return train_embedder.Pairs(self.material, self.vectors, self.tokenizer, self.seed)

    @stage("words")
    def words(self):
        plain, folder = self.plain[:LSA_PASSAGES], self.folder / "words"
        return train_embedder.train_words(self.table, plain, self.pairs, folder)

    @stage("whole embedder")
    def embed(self):
        folder = self.folder / "whole embedder"
        return train_embedder.train_whole(self.words, self.pairs, folder).state_dict()

    def write(self, kind: str, place: Path) -> None:
        """Write the checkpoint rank or embed, measured as it is stored, with its card."""
        ranks = kind == "rank"
        name, measured = (
            ("measure", measure.rerank) if ranks else ("measure embedder", measure.retrieve)
        )
        plan = train.SECOND if ranks else train_embedder.WHOLE
        weights = self.rank if ranks else self.embed
        with atomic_directory(place, "embedded", _refuse_foreign) as new:
            save(weights, self.tokenizer, kind, new)
            figures, examples = {}, measure.examples(new) if ranks else []
            if self.beir.is_dir():
                figures = self.keep(name, lambda: measured(self.beir, new))
            else:
                print(f"no folder {self.beir}: nDCG@10 not measured")
            text = card.write(
                kind,
                seed=self.seed,
                parameters=sum(weight.numel() for weight in weights.values()),
                vocabulary=self.tokenizer.get_vocab_size(),
                longest=plan.lengths[-1][1],
                seconds=self.seconds(),
                sources=self.sources,
                figures=figures,
                examples=examples,
            )
            (new / "README.md").write_text(text, encoding="utf-8")
        print(figures, *examples, sep="\n")


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
    for kind in ("rank", "embed"):
        _refuse_foreign(chosen.out / kind)
    disable_telemetry()
    torch.set_num_threads(chosen.threads)
    making = Making(chosen.work, chosen.seed, chosen.beir)
    making.run()
    for kind in ("rank", "embed"):
        making.write(kind, chosen.out / kind)


if __name__ == "__main__":
    with exit_on_refusal():
        main()
