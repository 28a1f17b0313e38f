"""NeMo Automodel's retrieval files: records whose passages are ids of one or several corpora.

`{"corpus": {"path": …} or a list of them, "data": [{"question", "pos_doc", "neg_doc", …}]}`; a path
is relative to the file, and its folder has `merlin_metadata.json` (with `corpus_id`, by which
records choose among several) and a split `train` of `id` and `text`. A passage may also be inline,
`{"text": …}`. (`components/datasets/llm/retrieval_dataset.py` of NVIDIA-NeMo/Automodel.)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from recipe.data.columns import split_of
from recipe.data.files import SUFFIXES, Text, open_text, records, suffix
from recipe.data.rows import BadRow, Broken, Row, Source, question_id, usable
from recipe.durable import UNREADABLE, read_json
from recipe.errors import BadInput

_METADATA = "merlin_metadata.json"
# Passages of a corpus by the id they have there.
Corpora = Mapping[str, Mapping[str, str]]


class _Corpus(msgspec.Struct, frozen=True):
    path: str


class _File(msgspec.Struct, frozen=True):
    corpus: _Corpus | list[_Corpus]
    data: list[dict[str, Any]]


class _Head(msgspec.Struct, frozen=True):
    corpus: _Corpus | list[_Corpus]
    data: msgspec.Raw


class _Metadata(msgspec.Struct, frozen=True):
    corpus_id: str


def is_automodel(file: Path) -> bool:
    """Whether a .json has Automodel's `corpus` and `data`."""
    return suffix(file) == ".json" and _decoded(file, _Head) is not None


def corpus_folders(file: Path) -> list[Path]:
    """The folders of the file's corpora, which need not exist."""
    head = _decoded(file, _Head)
    return [] if head is None else [file.parent / one.path for one in _listed(head.corpus)]


def read_automodel(file: Path, text: Text, broken: Broken) -> Source:
    """The records of the file with the passages of all its corpora. Raises BadInput."""
    found = _decoded(file, _File)
    if found is None:
        raise BadInput(f"{file} cannot be used; wanted Automodel's corpus and data")
    source = Source("a training file of NeMo Automodel")
    corpora = {}
    for one in _listed(found.corpus):
        folder = file.parent / one.path
        name = _corpus_id(folder)
        if name in corpora:
            raise BadInput(f"{file} names two corpora with the id {name!r}, wanted each once")
        corpora[name] = read_corpus(corpus_files(folder), text, broken, source)
    for number, record in enumerate(found.data, start=1):
        try:
            source.rows.append(row_of(record, corpora, source, split_of(file.stem)))
        except BadRow as error:
            broken.add(f"{file.name}, element {number}", error)
    return source


def row_of(record: dict[str, Any], corpora: Corpora, source: Source, split: str | None) -> Row:
    """The row of one record. Raises BadRow."""
    question = usable(record.get("question", record.get("query")), "question")
    corpus = _chosen(record.get("corpus_id"), corpora)
    positives = [_passage(one, corpus, source) for one in _list(record.get("pos_doc"))]
    negatives = [_passage(one, corpus, source) for one in _list(record.get("neg_doc"))]
    if not positives and not negatives:
        raise BadRow("found no passage in pos_doc and neg_doc")
    given = record.get("question_id")
    return Row(
        question,
        tuple(dict.fromkeys(positives)),
        tuple(name for name in dict.fromkeys(negatives) if name not in positives),
        id=question_id(question) if given in (None, "") else str(given),
        split=split,
    )


def corpus_files(folder: Path) -> list[Path]:
    """The files of a corpus' split `train`. Raises BadInput."""
    found = [
        file
        for file in sorted(folder.rglob("*"))
        if suffix(file) in SUFFIXES
        and not file.name.endswith("metadata.json")
        and split_of(file.stem) in (None, "train")
    ]
    if not found:
        raise BadInput(f"found no corpus in {folder}, wanted a parquet file of id and text")
    return found


def read_corpus(
    files: Sequence[Path], text: Text, broken: Broken, source: Source
) -> dict[str, str]:
    """Passage ids of `source` by the ids in the corpus. Raises BadInput."""
    ids = {}
    for file in files:
        for place, record in records(file, text, broken):
            if "id" not in record or "text" not in record:
                raise BadInput(
                    f"{file} has the columns {', '.join(record)}, wanted texts in id and text"
                )
            title = record.get("title")
            try:
                body = usable(record["text"], "text")
            except BadRow as error:
                broken.add(f"{file.name}, {place}", error)
                continue
            ids[str(record["id"])] = source.passage(f"{title} {body}" if title else body)
    return ids


def _passage(one: Any, corpus: Mapping[str, str], source: Source) -> str:
    if isinstance(one, dict) and one.get("text"):
        return source.passage(usable(one["text"], "a passage"))
    name = str(one.get("id") if isinstance(one, dict) else one)
    if name not in corpus:
        raise BadRow(f"names the passage {name!r}, which is not in the corpus")
    return corpus[name]


def _chosen(name: object, corpora: Corpora) -> Mapping[str, str]:
    if len(corpora) == 1:
        return next(iter(corpora.values()))
    if name not in corpora:
        raise BadRow(f"has corpus_id {name!r}, wanted one of {', '.join(sorted(corpora))}")
    return corpora[str(name)]


def _corpus_id(folder: Path) -> str:
    file = folder / _METADATA
    found = read_json(file, _Metadata, lambda error: BadInput(f"{file} cannot be used ({error})"))
    return folder.resolve().name if found is None else found.corpus_id


def _listed(corpus: _Corpus | list[_Corpus]) -> list[_Corpus]:
    return corpus if isinstance(corpus, list) else [corpus]


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _decoded(file: Path, kind: type[Any]) -> Any:
    """The file as `kind`; None for any other content."""
    try:
        with open_text(file, None, "\n") as held:
            return msgspec.json.decode(held.read().encode(), type=kind)
    except (OSError, EOFError, UnicodeError, *UNREADABLE):
        return None
