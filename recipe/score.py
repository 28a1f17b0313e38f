"""rerank score IN.jsonl OUT.jsonl: score large files offline, with the serving engine.

A line of IN is {"query": …, "passages": […]} with an optional "id"; the line of OUT with the same
number is {"id"?, "scores": […]}, raw logits in the order of the passages. Lines never share an
engine call, so scores depend neither on other lines nor on interruptions.
"""

import argparse
import hashlib
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from recipe.durable import Journal, read_json
from recipe.errors import BadInput, OutputRefused
from recipe.progress import Log, Progress, stage_log
from recipe.ray_workers import map_in_order
from recipe.score_input import Input, decoded
from runtime.opening import open_ranker
from runtime.outputs import atomic_file, file_place, locked_work_folder, refuse_inputs, work_folder
from runtime.requests import RankRequest

ABOUT = "score a large file of queries and passages offline"
# Lines per chunk of work: at most these are lost when a run is killed.
CHUNK_LINES = 32
_MAX_LISTED = 10
_PURPOSE, _HEAD, _JOURNAL = "rerank-score", "head.json", "journal.jsonl"
_CHECK_BYTES = 8
_START_OVER = "start over with --force, or name another OUT.jsonl"


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides the scores: a run continues an earlier one only when it is equal."""

    input: str
    lines: int
    version: str
    max_length: int
    skipped: list[int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add IN, OUT, the artifact, the number of workers and the options."""
    parser.add_argument("source", metavar="IN.jsonl", type=Path)
    parser.add_argument("out", metavar="OUT.jsonl", type=Path)
    parser.add_argument("--rank", metavar="DIR", type=Path, required=True, help="an artifact")
    parser.add_argument(
        "--max-length",
        metavar="N",
        type=_positive,
        help="tokens of a pair; longer pairs are truncated at the end",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=_positive,
        default=1,
        help="above 1: the number of processes on Ray",
    )
    parser.add_argument("--ray-address", metavar="ADDRESS", help="a running cluster, or auto")
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave broken lines out, and count them"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT.jsonl and start over")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a whole number from 1")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Score the whole file; unfinished work is kept in `.<out>.rerank-score`.

    Raises BadInput, OutputRefused or ServingError.
    """
    source, out, artifact, force = args.source, args.out, args.rank, args.force
    log, place = stage_log("score"), file_place(out)
    refuse_inputs(out, source, artifact)
    refuse_inputs(work_folder(out, _PURPOSE), source, artifact)
    with closing(Input(source)) as asked, locked_work_folder(out, _PURPOSE) as folder:
        _refuse_others(folder)
        if not force:
            _refuse_present(place)
        asked.scan()
        _refuse_broken(source, asked.broken, args.skip_broken, log)
        with closing(open_ranker(artifact, max_tokens=args.max_length)) as ranker:
            version, bound = ranker.info.version, ranker.info.max_tokens
        head = Head(
            input=asked.digest,
            lines=asked.lines,
            version=version,
            max_length=bound,
            skipped=asked.broken,
        )
        if force:
            _remove_work_files(folder)
        _begin(folder, head)
        journal = Journal(folder / _JOURNAL, _Line)
        done = sum(1 for _ in _checked(asked, journal))
        progress = Progress("lines", asked.scored, log, done)
        chunks = _chunks(islice(asked.scorable_lines(), done, None))
        with journal.open() as writer:
            how = (artifact, bound), chunks, args.workers, args.ray_address
            for scored in map_in_order(_Scorer, *how):
                writer.write(*scored)
                progress.step(len(scored))
        if not force:
            _refuse_present(place)  # made by another process meanwhile
        _publish(asked, journal, folder, place)
        _remove_work_files(folder)
    log(f"done: {out}")
    return 0


def _refuse_present(place: Path) -> None:
    if place.exists():
        raise OutputRefused(f"{place} exists; name another file, or start over with --force")


def _refuse_others(folder: Path) -> None:
    for path in (folder / _HEAD, folder / _JOURNAL):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise OutputRefused(
                f"{path} is not a regular file of this command; move {folder} away, or name "
                "another OUT.jsonl"
            )


def _remove_work_files(folder: Path) -> None:
    for name in (_JOURNAL, _HEAD):
        (folder / name).unlink(missing_ok=True)


def _refuse_broken(source: Path, broken: list[int], skip: bool, log: Log) -> None:
    if not broken:
        return
    shown = ", ".join(map(str, broken[:_MAX_LISTED])) + (" …" if len(broken) > _MAX_LISTED else "")
    if not skip:
        raise BadInput(
            f"{len(broken)} line(s) of {source} cannot be scored ({shown}): wanted JSON with a "
            "query and a list of passages, none of them blank; fix them, or leave them out with "
            "--skip-broken"
        )
    log(f"left out {len(broken)} broken line(s): {shown}")


def _begin(folder: Path, head: Head) -> None:
    """Write `head`, or check that an earlier run wrote the same."""
    file = folder / _HEAD
    if not file.exists():
        _remove_work_files(folder)
        with atomic_file(folder, file) as new:
            new.write(msgspec.json.encode(head))
        return
    before = read_json(
        file,
        Head,
        lambda error: OutputRefused(
            f"{file} is damaged ({error}), so an earlier run's input is unknown; {_START_OVER}"
        ),
    )
    if before != head:
        raise OutputRefused(
            f"{file} is of an earlier run with other lines, another artifact or another "
            f"length; {_START_OVER}"
        )


def _chunks(lines: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    while chunk := list(islice(lines, CHUNK_LINES)):
        yield chunk


class _Scorer:
    """One worker's ranker: lines of the input, by number → as many lines of the journal."""

    def __init__(self, artifact: Path, max_length: int) -> None:
        self._ranker = open_ranker(artifact, max_tokens=max_length)

    def __call__(self, lines: list[tuple[int, bytes]]) -> list[dict[str, Any]]:
        return [self._scored(*line) for line in lines]

    def _scored(self, number: int, line: bytes) -> dict[str, Any]:
        asked = decoded(number, line)
        logits = self._ranker.rank(
            RankRequest(asked.query, asked.passages, truncate="END")
        ).logits.tolist()
        named = {} if asked.id is None else {"id": asked.id}
        answer = {**named, "scores": logits}
        return {"check": _check(number, line, msgspec.json.encode(answer)), "answer": answer}

    def close(self) -> None:
        """Stop the engine."""
        self._ranker.close()


class _Line(msgspec.Struct, frozen=True):
    """A line of the journal: an answer, and a checksum that ties it to its input line."""

    check: str
    answer: msgspec.Raw


def _check(number: int, line: bytes, answer: bytes) -> str:
    """A checksum of an input line, its number and its answer: detects damaged or swapped
    answers."""
    digest = hashlib.blake2b(b"%d %d\n" % (number, len(line)), digest_size=_CHECK_BYTES)
    digest.update(line)
    digest.update(answer)
    return digest.hexdigest()


def _checked(asked: Input, journal: Journal[_Line]) -> Iterator[bytes]:
    """The answers in the journal, each checked against its line. Raises OutputRefused."""
    scorable_lines = asked.scorable_lines()
    for count, entry in enumerate(journal.entries(), start=1):
        number, line = next(scorable_lines, (0, b""))
        answer = bytes(entry.answer)
        if entry.check != _check(number, line, answer):
            raise OutputRefused(
                f"line {count} of {journal.path} is damaged, or answers another line of the "
                f"input; {_START_OVER}"
            )
        yield answer


def _publish(asked: Input, journal: Journal[_Line], folder: Path, place: Path) -> None:
    """Write `place` from the journal, if it answers every line that can be scored."""
    count = 0
    with atomic_file(folder, place) as output:
        for answer in _checked(asked, journal):
            output.write(answer + b"\n")
            count += 1
        if count != asked.scored:
            raise OutputRefused(
                f"{journal.path} holds {count} answers, wanted {asked.scored}: the input has "
                f"changed meanwhile; {_START_OVER}"
            )
