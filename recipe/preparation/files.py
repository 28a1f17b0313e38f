"""The files that prep writes, with the keys, types and names of NVIDIA's recipe.

Source: `src/nemotron/recipes/embed/stage1_data_prep` of NVIDIA-NeMo/Nemotron, and BEIR's layout
for the evaluation set.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from recipe.durable import write_atomic, write_json
from recipe.preparation.mining import Mined, rows_of
from recipe.preparation.split import Question

CORPUS_FOLDER, EVAL_FOLDER = "corpus", "eval_beir"
# What NVIDIA's own tests want in a question's metadata.
_ORIGIN: dict[str, list[Any]] = {"file_name": [], "segment_ids": []}


def write_corpus(folder: Path, corpus: Mapping[str, str], corpus_id: str) -> None:
    """corpus/train.parquet (id, text) and corpus/merlin_metadata.json."""
    import pyarrow  # late: a hundred megabytes
    from pyarrow import parquet

    table = pyarrow.table(
        {
            "id": pyarrow.array(list(corpus), pyarrow.string()),
            "text": pyarrow.array(list(corpus.values()), pyarrow.string()),
        }
    )
    held = io.BytesIO()
    parquet.write_table(table, held)
    write_atomic(folder / CORPUS_FOLDER / "train.parquet", held.getvalue())
    metadata = {"corpus_id": corpus_id, "class": "TextQADataset"}
    write_json(folder / CORPUS_FOLDER / "merlin_metadata.json", metadata)


def write_beir(folder: Path, corpus: Mapping[str, str], questions: Sequence[Question]) -> None:
    """eval_beir/: corpus.jsonl, queries.jsonl and qrels/test.tsv."""
    passages = [
        {"_id": name, "title": "", "text": text, "metadata": {}} for name, text in corpus.items()
    ]
    asked = [
        {"_id": one.id, "text": one.text, "metadata": {**_ORIGIN, **one.metadata}}
        for one in questions
    ]
    judged = [
        f"{one.id}\t{name}\t{grade}"
        for one in questions
        for name, grade in zip(one.positives, one.grades, strict=True)
    ]
    encode = msgspec.json.Encoder().encode_lines
    write_atomic(folder / EVAL_FOLDER / "corpus.jsonl", encode(passages))
    write_atomic(folder / EVAL_FOLDER / "queries.jsonl", encode(asked))
    qrels = "\n".join(["query-id\tcorpus-id\tscore", *judged, ""])
    write_atomic(folder / EVAL_FOLDER / "qrels" / "test.tsv", qrels.encode())


def write_split(folder: Path, split: str, questions: Sequence[Question], corpus_id: str) -> None:
    """train.json or val.json: questions before mining."""
    data = [
        _entry(
            one.id,
            one.text,
            corpus_id,
            [{"id": name} for name in one.positives],
            [{"id": name} for name in one.negatives],
        )
        for one in questions
    ]
    _write_data(folder / f"{split}.json", data)


def write_mined(folder: Path, split: str, mined: Sequence[Mined], corpus_id: str) -> None:
    """SPLIT_mined.automodel.json, and its unrolled form with one entry for each positive."""
    whole, unrolled = [], []
    for one in mined:
        question = one.question
        positives, negatives = rows_of(one.positives), rows_of(one.negatives)
        whole.append(_entry(question.id, question.text, corpus_id, positives, negatives))
        unrolled += [
            _entry(f"{question.id}_{number}", question.text, corpus_id, [positive], negatives)
            for number, positive in enumerate(positives)
        ]
    _write_data(folder / f"{split}_mined.automodel.json", whole)
    _write_data(folder / f"{split}_mined.automodel_unrolled.json", unrolled)


def _entry(
    name: str, text: str, corpus_id: str, positives: list[Any], negatives: list[Any]
) -> dict[str, Any]:
    return {
        "question_id": name,
        "question": text,
        "corpus_id": corpus_id,
        "pos_doc": positives,
        "neg_doc": negatives,
    }


def _write_data(file: Path, data: list[dict[str, Any]]) -> None:
    write_json(file, {"corpus": {"path": f"./{CORPUS_FOLDER}/"}, "data": data})
