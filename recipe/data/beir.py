"""BEIR folders as training data: corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv."""

from pathlib import Path

from recipe.data.columns import split_of
from recipe.data.rows import Broken, Row, Source
from recipe.errors import BadInput
from recipe.evaluation.collection import CORPUS, QUERIES, read_grades, read_queries, read_texts


def is_beir(folder: Path) -> bool:
    """Whether the folder has the two files of the layout, which may be compressed."""
    return all(_place(folder, name).is_file() for name in (CORPUS, QUERIES))


def read_beir(folder: Path, broken: Broken) -> Source:
    """The judged questions of every split; passages judged 0 or less are given negatives.

    Raises BadInput.
    """
    source = Source("a BEIR folder")
    texts = read_texts(_place(folder, CORPUS), broken)
    queries = read_queries(_place(folder, QUERIES), broken)
    ids = {name: source.passage(text) for name, text in texts.items()}
    files = {file: split_of(file.stem) for file in sorted((folder / "qrels").glob("*.tsv"))}
    if not files:
        raise BadInput(f"found no qrels/*.tsv in {folder}, which say what answers a query")
    for file, split in files.items():
        if split is None:
            source.notes.append(f"left out {file.name}: wanted train, dev or test as its name")
            continue
        for query, judged in read_grades(file, queries, texts, broken).items():
            graded: dict[str, int] = {}
            for name, grade in judged.items():
                graded[ids[name]] = max(grade, graded.get(ids[name], grade))
            best_first = sorted(graded.items(), key=lambda one: -one[1])
            positives = {name: grade for name, grade in best_first if grade > 0}
            source.rows.append(
                Row(
                    queries[query],
                    tuple(positives),
                    tuple(name for name in graded if name not in positives),
                    tuple(positives.values()),
                    id=query,
                    split=split,
                    metadata={"file_name": [f"qrels/{file.name}"]},
                )
            )
    return source


def _place(folder: Path, name: str) -> Path:
    packed = folder / f"{name}.gz"
    return packed if packed.is_file() else folder / name
