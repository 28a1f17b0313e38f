"""NVIDIA's stage 0: records of documents with questions, answers and a judge's scores.

Every version of its files: JSON lines, `generated_batch*.json` (one record or a list), parquet,
and the manifest that names one of them. Fields that only describe a question may be missing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from recipe.data.files import Text, records
from recipe.data.rows import BadRow, Broken, Row, Source, usable
from recipe.durable import read_json
from recipe.errors import BadInput
from recipe.generation.record import RESULT_FILE, RESULT_SCHEMA, Result

PAIRS = "deduplicated_qa_pairs"
_ABOUT = ("query_type", "reasoning_type", "hop_count", "question_complexity", "answer")


class _Chunk(msgspec.Struct, frozen=True):
    chunk_id: int
    text: str


class _Pair(msgspec.Struct, frozen=True, kw_only=True):
    question: str
    segment_ids: list[int]
    answer: str | None = None
    query_type: str | None = None
    reasoning_type: str | None = None
    question_complexity: int | None = None
    hop_count: int | None = None


class _Overall(msgspec.Struct, frozen=True):
    score: float


class _Evaluation(msgspec.Struct, frozen=True):
    overall: _Overall


class _Evaluations(msgspec.Struct, frozen=True):
    evaluations: list[_Evaluation | None] | None = None


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a record that is used."""

    file_name: str | list[str]
    chunks: list[_Chunk]
    deduplicated_qa_pairs: list[_Pair]
    qa_evaluations: _Evaluations | None = None


def manifest_target(manifest: Path) -> Path:
    """The file of records that a generation_result.json names.

    An absolute path of another machine is looked for beside the manifest. Raises BadInput.
    """
    result = read_json(
        manifest,
        Result,
        lambda error: BadInput(f"{manifest} cannot be read ({error}); run the stage sdg again"),
    )
    if result is None:
        raise BadInput(f"found no {manifest}; run the stage sdg first")
    if result.schema_version != RESULT_SCHEMA:
        raise BadInput(
            f"{manifest} has schema_version {result.schema_version}, wanted {RESULT_SCHEMA}"
        )
    named = manifest.parent / result.output_path
    beside = manifest.parent / Path(result.output_path).name
    return beside if not named.exists() and beside.exists() else named


def generated_files(folder: Path) -> list[Path]:
    """The files of a folder without a manifest, as older versions of stage 0 leave it."""
    return sorted(folder.glob("generated_batch*.json"))


def manifest_in(given: Path) -> Path | None:
    """The manifest, when `given` is one or a folder with one."""
    manifest = given / RESULT_FILE if given.is_dir() else given
    return manifest if manifest.name == RESULT_FILE and manifest.is_file() else None


def read_generated(files: list[Path], text: Text, broken: Broken) -> Source:
    """All questions of the records in `files`; the rows' groups are the documents' names."""
    source = Source("records of NVIDIA's stage 0 (or the stage sdg)")
    uneven = unjudged = 0
    for file in files:
        for place, found in records(file, text, broken):
            try:
                record = _record(found)
                judged = _scores(record)
                if judged is None:
                    unjudged += 1
                elif len(judged) != len(record.deduplicated_qa_pairs):
                    uneven += 1
                else:
                    source.rows += list(_rows(record, judged, source))
            except (BadRow, msgspec.ValidationError) as error:
                broken.add(f"{file.name}, {place}", error)
    for count, what in (
        (uneven, "without an evaluation for each pair"),
        (unjudged, "that no judge has scored"),
    ):
        if count:
            source.notes.append(f"left out {count} records {what}")
    return source


def _record(found: dict[str, Any]) -> _Record:
    # Numbers in quotes are numbers (strict=False): judges write "8".
    record = msgspec.convert(found, _Record, strict=False)
    if not record.file_name or not all(_names(record)):
        raise BadRow("file_name is empty, wanted the document's name")
    return record


def _names(record: _Record) -> list[str]:
    return [record.file_name] if isinstance(record.file_name, str) else record.file_name


def _scores(record: _Record) -> list[float | None] | None:
    """The score of each pair; None when the record was never judged."""
    if record.qa_evaluations is None or record.qa_evaluations.evaluations is None:
        return None if record.deduplicated_qa_pairs else []
    return [None if one is None else one.overall.score for one in record.qa_evaluations.evaluations]


def _rows(record: _Record, judged: list[float | None], source: Source) -> Iterator[Row]:
    texts: dict[int, str] = {}
    for chunk in record.chunks:
        if chunk.chunk_id in texts:
            raise BadRow(f"the chunk id {chunk.chunk_id} occurs more than once")
        texts[chunk.chunk_id] = usable(chunk.text, f"the chunk {chunk.chunk_id}")
    for pair in record.deduplicated_qa_pairs:
        usable(pair.question, "a question")
        for name in pair.segment_ids:
            if name not in texts:
                raise BadRow(f"a pair names the chunk {name}, and the record has no such chunk")
    for score in judged:
        if score is not None and not 0 <= score <= 10:
            raise BadRow(f"a score is {score:g}, wanted 0 to 10")
    for text in texts.values():
        source.passage(text)
    for pair, score in zip(record.deduplicated_qa_pairs, judged, strict=True):
        about = {key: getattr(pair, key) for key in _ABOUT if getattr(pair, key) is not None}
        yield Row(
            pair.question,
            tuple(dict.fromkeys(source.passage(texts[name]) for name in pair.segment_ids)),
            group=tuple(_names(record)),
            quality=0.0 if score is None else score,
            metadata={**about, "file_name": _names(record), "segment_ids": pair.segment_ids},
        )
