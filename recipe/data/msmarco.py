"""MS MARCO's triples of ids: a question, a passage that answers it, and one that does not.

`qidpidtriples.train.full.2.tsv` has `qid`, `pid` and `nid`, separated by tabs. The texts are beside
it: `collection.tsv` (`pid`, text) and `queries.tsv`, `queries.train.tsv`, … (`qid`, text). None
has a header, and each may be compressed (`.gz`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from recipe.data.columns import SPELLINGS, split_of
from recipe.data.files import text_lines
from recipe.data.rows import BadRow, Broken, Row, Source, usable
from recipe.errors import BadInput

_COLLECTION, _QUERIES = ("collection.tsv", "collection.tsv.gz"), ("queries*.tsv", "queries*.tsv.gz")
_IDS = ("qid", "pid", "nid")
# In a folder: other files of ids lie there too, such as runs (qid, pid, rank).
_NAMED = "triples"


def text_files(folder: Path) -> list[Path]:
    """The collection and the files of queries in the folder; none unless there are both."""
    collections = [folder / name for name in _COLLECTION if (folder / name).is_file()]
    queries = sorted(file for pattern in _QUERIES for file in folder.glob(pattern))
    return [collections[0], *queries] if collections and queries else []


def is_id_triples(file: Path, encoding: str | None = None) -> bool:
    """Whether the first line is three ids (no texts, and no header), whose texts are beside it."""
    beside = text_files(file.parent)
    if not beside or file in beside or not file.name.endswith((".tsv", ".tsv.gz")):
        return False
    line = next(text_lines(file, encoding), (1, ""))[1]
    cells = [cell.strip().lower() for cell in line.split("\t")]
    return len(cells) == len(_IDS) and not any(" " in one or one in SPELLINGS for one in cells)


def read_id_folder(folder: Path, encoding: str | None, broken: Broken) -> Source | None:
    """The triples of ids in the folder, from the files whose names say so; None without ids.

    Raises BadInput for three ids in a line of other files alone.
    """
    files = sorted([*folder.glob("*.tsv"), *folder.glob("*.tsv.gz")])
    ids = [file for file in files if is_id_triples(file, encoding)]
    named = [file for file in ids if _NAMED in file.name.lower()]
    others = ", ".join(file.name for file in ids if file not in named)
    if not ids:
        return None
    if not named:
        raise BadInput(
            f"found three ids in a line of {others}, and no file in {folder} whose name says "
            f"{_NAMED}, wanted one such as qidpidtriples.train.full.2.tsv: what a search found "
            "(qid, pid, rank) answers nothing; name the file itself if it does hold triples"
        )
    source = read_id_triples(named, encoding, broken)
    if others:
        source.notes.append(f"not read, as their names do not say {_NAMED}: {others}")
    return source


def read_id_triples(files: Sequence[Path], encoding: str | None, broken: Broken) -> Source:
    """A row for each question, with all passages of its triples; the corpus is the collection.

    A file's name says the split. Raises BadInput.
    """
    source = Source("MS MARCO's triples of ids")
    collection, *asked = text_files(files[0].parent)
    passages: dict[str, str] = {}
    queries: dict[str, str] = {}
    _read_texts(collection, encoding, broken, passages, source.passage)
    for file in asked:
        _read_texts(file, encoding, broken, queries, str)
    for file in files:
        # Positives and negatives, each once: the full file names a passage in hundreds of lines.
        found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
        for number, line in text_lines(file, encoding):
            try:
                query, yes, no = _ids(line, queries, passages)
            except BadRow as error:
                broken.add(f"{file.name}, line {number}", error)
                continue
            positives, negatives = found.setdefault(query, ({}, {}))
            positives[passages[yes]] = negatives[passages[no]] = None
        for query, (positives, negatives) in found.items():
            source.rows.append(
                Row(
                    queries[query],
                    tuple(positives),
                    tuple(name for name in negatives if name not in positives),
                    id=query,
                    split=split_of(file.stem),
                    metadata={"file_name": [file.name]},
                )
            )
    if not source.rows and not broken.count:
        raise BadInput(f"found no triples in {', '.join(file.name for file in files)}")
    return source


def _read_texts(
    file: Path,
    encoding: str | None,
    broken: Broken,
    known: dict[str, str],
    keep: Callable[[str], str],
) -> None:
    """Add what `keep` makes of each text to `known`, by the id before it."""
    for number, line in text_lines(file, encoding):
        name, tab, text = line.partition("\t")
        try:
            if not tab:
                raise BadRow(f"found {line[:60]!r}, wanted an id, a tab and a text")
            kept = keep(usable(text, "the text"))
            if known.setdefault(usable(name, "the id").strip(), kept) != kept:
                raise BadRow(f"gives the id {name!r} to another text than an earlier line")
        except BadRow as error:
            broken.add(f"{file.name}, line {number}", error)


def _ids(line: str, queries: dict[str, str], passages: dict[str, str]) -> list[str]:
    """Question, answer and other passage. Raises BadRow."""
    cells = [cell.strip() for cell in usable(line, "the line").split("\t")]
    if len(cells) != len(_IDS):
        raise BadRow(f"found {len(cells)} cells, wanted {', '.join(_IDS)}, separated by tabs")
    for what, name, known in zip(
        ("question", "passage", "passage"), cells, (queries, passages, passages), strict=True
    ):
        if name not in known:
            where = "queries" if known is queries else "collection"
            raise BadRow(f"names the {what} {name!r}, which is not in the {where}")
    return cells
