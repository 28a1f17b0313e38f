"""Small training and evaluation data: 24 passages with one question each."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

TEMPLATE = "question:{query} \n \n passage:{passage}"
TOPICS = (
    "sheep",
    "rain",
    "wheat",
    "river",
    "bread",
    "stone",
    "copper",
    "wool",
    "candle",
    "harbour",
    "mirror",
    "thunder",
    "saddle",
    "barley",
    "lantern",
    "anvil",
    "orchard",
    "glacier",
    "compass",
    "violin",
    "pepper",
    "marble",
    "falcon",
    "timber",
)
LENGTH_TOKENS = 48


def passage(number: int) -> str:
    return f"The {TOPICS[number]} is what the farmer said about number {number}."


def question(number: int) -> str:
    return f"what about the {TOPICS[number]}"


def write_prep(folder: Path, *, negatives: int = 4) -> Path:
    """The output of the stage prep: groups of 18 questions, and 6 questions to evaluate."""
    numbers = range(len(TOPICS))
    (folder / "corpus").mkdir(parents=True)
    table = pa.table({"id": [f"d{n}" for n in numbers], "text": [passage(n) for n in numbers]})
    parquet.write_table(table, folder / "corpus" / "train.parquet")
    for name, part in (("train", numbers[:14]), ("val", numbers[14:18])):
        # No answer to a question of validation or evaluation is a negative of training.
        records = [record(n, negatives, numbers[:14]) for n in part]
        content = {"corpus": {"path": "./corpus/"}, "data": records}
        (folder / f"{name}_mined.json").write_text(json.dumps(content))
    write_beir(folder / "eval_beir", numbers[18:])
    return folder


def record(number: int, negatives: int, among: range) -> dict[str, Any]:
    others = [among[(number + step) % len(among)] for step in range(1, negatives + 1)]
    return {
        "question_id": f"q{number}_0",
        "question": question(number),
        "corpus_id": "small",
        "pos_doc": [{"id": f"d{number}", "score": 0.9}],
        "neg_doc": [{"id": f"d{other}", "score": 0.5} for other in others],
    }


def write_beir(folder: Path, asked: range) -> Path:
    (folder / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": f"d{n}", "title": "", "text": passage(n), "metadata": {}}
        for n in range(len(TOPICS))
    ]
    queries = [{"_id": f"q{n}", "text": question(n), "metadata": {}} for n in asked]
    write_lines(folder / "corpus.jsonl", corpus)
    write_lines(folder / "queries.jsonl", queries)
    lines = ["query-id\tcorpus-id\tscore", *(f"q{n}\td{n}\t1" for n in asked)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


def write_lines(file: Path, rows: list[Any]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
