"""Read the records of sdg, line by line."""

from codecs import BOM_UTF8
from dataclasses import dataclass
from pathlib import Path

import msgspec

from recipe.durable import UNREADABLE, read_json
from recipe.errors import BadInput
from recipe.generation.record import RESULT_FILE, RESULT_SCHEMA, Record, Result
from recipe.progress import Log

_MAX_LISTED = 5


def records_file(given: Path) -> Path:
    """The records' file for `given`: a file, or an output directory of sdg. Raises BadInput."""
    if given.is_file() and given.name != RESULT_FILE:
        return given
    manifest = given / RESULT_FILE if given.is_dir() else given
    result = read_json(
        manifest,
        Result,
        lambda error: BadInput(f"{manifest} cannot be read ({error}); run the stage sdg again"),
    )
    if result is None:
        raise BadInput(
            f"found no {RESULT_FILE} in {given}; run the stage sdg first, or set sdg_input_path to "
            "a file of records"
        )
    if result.schema_version != RESULT_SCHEMA:
        raise BadInput(
            f"{manifest} has schema_version {result.schema_version}, wanted {RESULT_SCHEMA}"
        )
    return manifest.parent / result.output_path


def read_records(file: Path, *, skip_broken: bool, log: Log) -> list[Record]:
    """All records of `file`.

    Raises BadInput with the numbers of broken lines, unless `skip_broken`: then they are counted
    and left out. Records whose numbers of evaluations and pairs differ are left out too.
    """
    decoder = msgspec.json.Decoder(Record)
    records, broken = [], list[str]()
    uneven = 0
    content = file.read_bytes().removeprefix(BOM_UTF8)
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = decoder.decode(line)
        except UNREADABLE as error:
            broken.append(f"line {number}: {error}")
            continue
        _check_record(file, number, record)
        if len(record.qa_evaluations.evaluations) == len(record.deduplicated_qa_pairs):
            records.append(record)
        else:
            uneven += 1
    if broken and not skip_broken:
        shown = "; ".join(broken[:_MAX_LISTED]) + ("; …" if len(broken) > _MAX_LISTED else "")
        raise BadInput(
            f"found {len(broken)} broken line(s) in {file}: {shown}. Fix them, or leave them out "
            "with skip_broken_lines=true"
        )
    for count, why in (
        (len(broken), "broken lines"),
        (uneven, "records without an evaluation for each pair"),
    ):
        if count:
            log(f"left out {count} {why}")
    if not records:
        raise BadInput(f"found no usable record in {file}; run the stage sdg again")
    return records


def _check_record(file: Path, number: int, record: Record) -> None:
    known = [chunk.chunk_id for chunk in record.chunks]
    if len(set(known)) < len(known):
        twice = next(name for name in known if known.count(name) > 1)
        raise BadInput(f"{file}, line {number}: the chunk id {twice} occurs more than once")
    texts = [chunk.text for chunk in record.chunks]
    for text in (*texts, *(pair.question for pair in record.deduplicated_qa_pairs)):
        if not text.strip() or "\0" in text:
            raise BadInput(
                f"{file}, line {number}: a chunk or question is blank or not text; fix the line, "
                "or run the stage sdg again"
            )
    for pair in record.deduplicated_qa_pairs:
        for name in pair.segment_ids:
            if name not in known:
                raise BadInput(
                    f"{file}, line {number}: a pair names the chunk {name}, and the record has "
                    "no such chunk"
                )


@dataclass(frozen=True)
class Question:
    """A question and the ids of the passages that answer it, best first."""

    id: str
    text: str
    positives: tuple[str, ...]
