"""One way in: what a path holds is seen from its files, and read by the reader of that form."""

from dataclasses import dataclass, field
from pathlib import Path

from recipe.config import Columns
from recipe.data.automodel import (
    corpus_folders,
    is_automodel,
    read_automodel,
    read_corpus,
    row_of,
)
from recipe.data.beir import is_beir, read_beir
from recipe.data.columns import Chosen, choose, headless, known_names, split_of
from recipe.data.files import SUFFIXES, Text, first_records, records, suffix
from recipe.data.hub import CARD, HubFiles, hub_files
from recipe.data.msmarco import is_id_triples, read_id_folder, read_id_triples, text_files
from recipe.data.rows import BadRow, Broken, Source
from recipe.data.sdg import PAIRS, generated_files, manifest_in, manifest_target, read_generated
from recipe.errors import BadConfig, BadInput
from recipe.generation.record import RESULT_FILE
from recipe.hub import HF
from recipe.progress import Log

_MAX_LISTED = 5
# Records of a file by which its form is seen.
_LOOKED_AT = 20
# Files that say something about a data set, and hold no rows (those of the library datasets).
_ABOUT = (RESULT_FILE, "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
WANTED = (
    "wanted a BEIR folder, a JSONL, CSV, TSV or parquet file of questions and passages (or a "
    "folder of such), MS MARCO's triples of ids with collection.tsv and queries.tsv beside them, a "
    "file of NeMo Automodel, records of the stage sdg or of NVIDIA's stage 0, or "
    "hf://ORG/NAME@REVISION/SUBSET"
)


@dataclass(frozen=True)
class Reading:
    """How a source is read: the names of its columns, and its encoding (None: found out)."""

    columns: Columns = field(default_factory=Columns)
    encoding: str | None = None

    @property
    def text(self) -> Text:
        """How its text files are read."""
        return Text(self.encoding, known_names(self.columns), headless)


def read(given: str, how: Reading, broken: Broken, log: Log) -> Source:
    """Everything in `given`; rows that cannot be used go to `broken`.

    Raises BadInput for what is no labelled data, BadConfig for settings that do not fit it.
    """
    found = hub_files(given, log)
    if found is not None:
        return _read_files(found, how, broken)
    path = Path(given)
    if not given.strip() or not path.exists():
        raise BadInput(f"found nothing at {given!r}; {WANTED}")
    manifest = manifest_in(path)
    if manifest is not None:
        target = manifest_target(manifest)
        if not target.exists():
            raise BadInput(f"{manifest} names {target}, which is not there; run the stage sdg")
        path = target
    if path.is_dir():
        return _read_folder(path, how, broken)
    if is_automodel(path):
        return read_automodel(path, how.text, broken)
    if is_id_triples(path, how.encoding):
        return read_id_triples([path], how.encoding, broken)
    return _read_files(HubFiles([path], path.parent), how, broken)


def parts(given: str) -> list[Path]:
    """The local paths that decide what `read` finds: those whose change is another input."""
    path = Path(given)
    found = None if given.startswith(HF) else hub_files(given, lambda _: None)
    if found is not None:  # a subset that the card beside the files names
        return [found.root / CARD, *found.files, *found.corpus]
    manifest = manifest_in(path)
    if manifest is not None:
        return [manifest, manifest_target(manifest)]
    files = _files_of(path) if path.is_dir() and not is_beir(path) else [path]
    trained = [file for file in files if file.is_file() and is_automodel(file)]
    if path.is_file() and is_id_triples(path):
        return [path, *text_files(path.parent)]
    return [path, *(folder for file in trained for folder in corpus_folders(file))]


def _read_folder(folder: Path, how: Reading, broken: Broken) -> Source:
    if is_beir(folder):
        return read_beir(folder, broken)
    if (triples := read_id_folder(folder, how.encoding, broken)) is not None:
        return triples
    files = _files_of(folder)
    trained = [file for file in files if is_automodel(file)]
    if len(trained) == 1:
        return read_automodel(trained[0], how.text, broken)
    if trained:
        raise BadInput(
            f"found {len(trained)} training files of NeMo Automodel in {folder}: "
            f"{', '.join(file.name for file in trained)}; name one of them"
        )
    return _read_files(HubFiles(files, folder), how, broken)


def _files_of(folder: Path) -> list[Path]:
    return generated_files(folder) or [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and suffix(file) in SUFFIXES
        and file.name not in _ABOUT
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def _read_files(found: HubFiles, how: Reading, broken: Broken) -> Source:
    """Rows of files of one form; a split is in the name of a file or of its folder."""
    files, root = found.files, found.root
    if not files:
        raise BadInput(f"found no data in {root}; {WANTED}")
    if is_beir(root) and not found.named:
        return read_beir(root, broken)
    if any(PAIRS in one for file in files for one in first_records(file, how.text, _LOOKED_AT)):
        return read_generated(list(files), how.text, broken)
    if found.corpus:
        return _with_corpus(found, how, broken)
    kinds = sorted({suffix(file).removeprefix(".").upper() for file in files})
    source = Source(f"{' and '.join(kinds)} rows of questions and passages")
    splits = {file: _split(file, found) for file in files}
    unnamed = [file.name for file, split in splits.items() if split is None]
    if 0 < len(unnamed) < len(files):
        source.notes.append(
            f"of {len(files)} files, the names of {len(unnamed)} say no split (train, val or test):"
            f" {', '.join(unnamed[:_MAX_LISTED])}"
        )
    for file, split in splits.items():
        _read_rows(file, split, how, broken, source)
    if not source.rows and not broken.count:
        raise BadInput(
            f"found no rows in {', '.join(file.name for file in files)}, wanted some (the first "
            "line of a table is its header)"
        )
    if source.texts and all(text.isdigit() for text in source.texts.values()):
        source.notes.append(
            "warning: all passages are numbers: ids need the texts beside them (MS MARCO's "
            "collection.tsv and queries.tsv, BEIR's or Automodel's form)"
        )
    return source


def _read_rows(file: Path, split: str | None, how: Reading, broken: Broken, source: Source) -> None:
    origin = {"file_name": [file.name]}
    # Rows of one file may have different keys: each set of them is looked at once.
    known: dict[tuple[str, ...], Chosen] = {}
    before = len(source.rows) + broken.count
    for place, record in records(file, how.text, broken):
        keys = tuple(record)
        try:
            if keys not in known:
                known[keys] = choose(keys, how.columns, file)
            source.rows.append(known[keys].row(record, source, split, origin))
        except BadRow as error:
            broken.add(f"{file.name}, {place}", error)
        except (BadInput, BadConfig) as error:
            if not known:  # not one row that fits: another kind of file
                raise
            broken.add(f"{file.name}, {place}", error)
    if len(source.rows) + broken.count == before:
        source.notes.append(f"{file.name}: holds no rows")
    graded = dict.fromkeys(one.label for one in known.values() if one.label is not None)
    if graded:
        source.notes.append(f"{file.name}: read as grades of passages: {', '.join(graded)}")
    unread = dict.fromkeys(name for chosen in known.values() for name in chosen.rest)
    if unread:
        source.notes.append(f"{file.name}: not read: {', '.join(unread)}")


def _with_corpus(found: HubFiles, how: Reading, broken: Broken) -> Source:
    """Automodel's layout on the hub: questions, and a corpus that is a subset beside them."""
    source = Source("a data set of NeMo Automodel")
    corpora = {"": read_corpus(found.corpus, how.text, broken, source)}
    for file in found.files:
        for place, record in records(file, how.text, broken):
            try:
                source.rows.append(row_of(record, corpora, source, _split(file, found)))
            except BadRow as error:
                broken.add(f"{file.name}, {place}", error)
    return source


def _split(file: Path, found: HubFiles) -> str | None:
    """The split that the card says, the file's name, or the nearest folder below the root."""
    names = reversed(file.relative_to(found.root).parts)
    return found.splits.get(file) or next(
        (split for one in names if (split := split_of(one))), None
    )
