"""Training data: a query with one positive passage and several negatives.

Read from NeMo Automodel's retrieval format, as the stage prep writes it
(`train_mined.automodel_unrolled.json`, one record per positive): `corpus.path` is the path,
relative to the file, of a folder with parquet files of `id` and `text`; each record of `data` has
`question_id`, `question`, `pos_doc` and `neg_doc`, lists of `{"id", "score"?}`, hardest negatives
first.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from recipe.durable import read_json
from recipe.errors import BadInput


@dataclass(frozen=True)
class Group:
    """One training example; the first of `passages` is the positive."""

    question_id: str
    query: str
    passages: tuple[str, ...]


class _Document(msgspec.Struct):
    id: str
    score: float | None = None


class _Record(msgspec.Struct):
    question_id: str
    question: str
    pos_doc: list[_Document]
    neg_doc: list[_Document]


class _Corpus(msgspec.Struct):
    path: str


class _TrainingFile(msgspec.Struct):
    corpus: _Corpus
    data: list[_Record]


def read_groups(file: Path, passages: int) -> list[Group]:
    """The groups of `file`: one positive and the first `passages` - 1 negatives of each record.

    Raises BadInput for a file of another format, unknown passages and too few negatives.
    """
    how = "wanted the format of the stage prep: run it again"
    found = read_json(
        file, _TrainingFile, lambda error: BadInput(f"{file} cannot be used ({error}); {how}")
    )
    if found is None:
        raise BadInput(
            f"found no training data at {file}; run the stage prep first, or set train_data_path"
        )
    if not found.data:
        raise BadInput(
            f"{file} holds no examples; lower quality_threshold of the stage prep, or give the "
            "stage sdg more documents"
        )
    _refuse_few(file, found.data, passages)
    texts = _read_corpus(file.parent / found.corpus.path)
    return [_group(file, record, texts, passages) for record in found.data]


def _refuse_few(file: Path, records: list[_Record], passages: int) -> None:
    short = [r for r in records if len(r.neg_doc) < passages - 1 or not r.pos_doc]
    if not short:
        return
    first = short[0]
    raise BadInput(
        f"{len(short)} of {len(records)} examples in {file.name} have too few passages (first: "
        f"{first.question_id} with {len(first.pos_doc)} positive and {len(first.neg_doc)} "
        f"negative); wanted 1 and {passages - 1}, as train_n_passages = {passages} says: raise "
        "hard_negatives_to_mine of the stage prep, or lower train_n_passages"
    )


def _group(file: Path, record: _Record, texts: dict[str, str], passages: int) -> Group:
    ids = [record.pos_doc[0].id, *(document.id for document in record.neg_doc[: passages - 1])]
    unknown = [name for name in ids if name not in texts]
    if unknown:
        raise BadInput(
            f"{file.name} names passage {unknown[0]} for {record.question_id}, which is not in "
            "the corpus beside it; run the stage prep again"
        )
    return Group(record.question_id, record.question, tuple(texts[name] for name in ids))


def _read_corpus(folder: Path) -> dict[str, str]:
    from pyarrow import ArrowException, parquet  # late: a hundred megabytes

    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise BadInput(f"found no parquet file in {folder}; run the stage prep again")
    names = ("id", "text")
    texts: dict[str, str] = {}
    for file in files:
        try:
            table = parquet.read_table(file)
        except (ArrowException, OSError) as error:
            raise BadInput(f"{file} cannot be read ({error}); run the stage prep again") from error
        columns = [table.column(name).to_pylist() for name in names if name in table.column_names]
        if len(columns) < len(names) or not all(isinstance(x, str) for c in columns for x in c):
            raise BadInput(
                f"{file} has the columns {', '.join(table.column_names)}, wanted texts in id and "
                "text; run the stage prep again"
            )
        texts.update(zip(*columns, strict=True))
    return texts
