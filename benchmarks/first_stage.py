"""`python -m benchmarks.first_stage`: time and peak memory of the recipe's mining and retrieval.

100 000 random vectors of 384 numbers on disk, and 1000 questions, each near one of them. Mining and
retrieval run in a process each, whose peak is the kernel's (ru_maxrss). Both are compared with
float64 products over everything, for a sample of the questions.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.progress import print_line
from recipe.evaluation.candidates import find_candidates
from recipe.evaluation.collection import Collection
from recipe.preparation.mining import Miner, parts
from recipe.preparation.split import Question
from recipe.vectors import Vectors, write_vectors

_PASSAGES, _NUMBERS, _QUESTIONS, _TOP_K, _NEGATIVES, _MARGIN = 100_000, 384, 1000, 100, 5, 0.95
_FILE_ROWS, _SAMPLE = 256, 20
_KINDS = ("mining", "retrieval")
_MARGIN_SLACK = 1e-6
# What the k-th score may differ by: float32 sums of 384 products.
_SCORE = 1e-5
Found = list[list[tuple[str, float]]]


def main() -> None:
    """Write the vectors, and run each kind in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", nargs="?", choices=_KINDS)
    parser.add_argument("folder", nargs="?", type=Path)
    args = parser.parse_args()
    if args.kind is not None:
        _measure(args.kind, args.folder)
        return
    with tempfile.TemporaryDirectory(prefix="first-stage-") as folder:
        rng = np.random.default_rng(1)
        table = rng.standard_normal((_PASSAGES, _NUMBERS), dtype=np.float32)
        near = table[:_QUESTIONS] + rng.standard_normal((_QUESTIONS, _NUMBERS), dtype=np.float32)
        for name, vectors in (("passage", table), ("query", near)):
            for number, file in enumerate(_stored(Path(folder), name, len(vectors)).files):
                write_vectors(file, vectors[number * _FILE_ROWS : (number + 1) * _FILE_ROWS])
        for kind in _KINDS:
            subprocess.run([sys.executable, "-m", __spec__.name, kind, folder], check=True)


def _stored(folder: Path, name: str, count: int) -> Vectors:
    files = [folder / name / f"{start:06}.npy" for start in range(0, count, _FILE_ROWS)]
    return Vectors(files, _FILE_ROWS, count)


def _measure(kind: str, folder: Path) -> None:
    """Print the time, the peak before and at the end, and compare."""
    import torch  # before it begins

    table = _stored(folder, "passage", _PASSAGES)
    asked = _stored(folder, "query", _QUESTIONS)
    before_mb = _peak_mb()
    began, began_cpu = time.perf_counter(), time.process_time()
    found = _mined(table, asked) if kind == "mining" else _retrieved(table, asked)
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    peak_mb = _peak_mb()
    _compare(kind, table, asked, found)
    print_line(
        f"{kind}: {took_s:.1f} s, {cpu_s:.1f} s of CPU time on {torch.get_num_threads()} threads; "
        f"peak {peak_mb} MB, of which {before_mb} MB before it began"
    )


def _mined(table: Vectors, asked: Vectors) -> Found:
    names = [f"d{number}" for number in range(_PASSAGES)]
    questions = [Question(f"q{n}", str(n), (f"d{n}",)) for n in range(_QUESTIONS)]
    miner = Miner(names, table, _NEGATIVES, _MARGIN, {"train": frozenset()})
    mined = [one for part in parts("train", questions, asked) for one in miner(part)]
    return [[(name, score or 0.0) for name, score in one.negatives] for one in mined]


def _retrieved(table: Vectors, asked: Vectors) -> Found:
    texts = {f"d{number}": str(number) for number in range(_PASSAGES)}
    collection = Collection(texts, {f"q{n}": str(n) for n in range(_QUESTIONS)}, {}, "")
    vectors = {"passage": table, "query": asked}
    found = find_candidates(
        collection, lambda _, kind: vectors[kind], _TOP_K, _PASSAGES, {}, lambda _: None
    ).found
    return [found[f"q{n}"] for n in range(_QUESTIONS)]


def _compare(kind: str, table: Vectors, asked: Vectors, found: Found) -> None:
    """Exit unless the sample's results are those of brute force, but for equal scores."""
    every = table.read(0, _PASSAGES).astype(np.float64)
    for number in range(0, _QUESTIONS, _QUESTIONS // _SAMPLE):
        scores = every @ asked.read(number, number + 1)[0].astype(np.float64)
        if kind == "mining":
            scores[scores > _MARGIN * scores[number] + _MARGIN_SLACK] = -np.inf
            scores[number] = -np.inf
        wanted = np.argsort(-scores, kind="stable")[: len(found[number])]
        got = np.array([int(name[1:]) for name, _ in found[number]])
        same = np.abs(scores[got] - scores[wanted]) < _SCORE
        told = np.abs(scores[got] - [score for _, score in found[number]]) < _SCORE
        if len(got) != (_NEGATIVES if kind == "mining" else _TOP_K) or not (same & told).all():
            sys.exit(f"{kind}: question {number} has others than brute force finds")


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
