"""rerank score IN.jsonl OUT.jsonl: score large files offline, on the engine that serves.

A line of IN is {"query": …, "passages": […]} with an optional "id"; the line of OUT with the same
number is {"id"?, "scores": […]}, raw logits in the order of the passages. No two lines share a
call of the engine, so neither other lines nor where a run was stopped and resumed move a score.
"""

import argparse
import hashlib
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from recipe.durable import Journal
from recipe.errors import BadInput, OutputRefused
from recipe.progress import Progress, Say, under
from recipe.ray_workers import map_in_order
from recipe.score_input import Input, decoded
from runtime.opening import open_ranker
from runtime.outputs import atomic_file, file_place, locked_work_folder, refuse_inputs, work_folder

ABOUT = "score a large file of queries and passages offline"
# Lines that one worker takes at a time, and that are lost at most when a run is killed.
CHUNK_LINES = 32
_SHOWN = 10
_PURPOSE, _HEAD, _JOURNAL = "rerank-score", "head.json", "journal.jsonl"
_CHECK_BYTES = 8
_ANEW = "begin anew with --force, or name another OUT.jsonl"


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the scores: a run goes on from an earlier one's only when all is equal."""

    input: str
    lines: int
    version: str
    max_length: int
    skipped: list[int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """IN, OUT, the artifact and how many workers."""
    parser.add_argument("source", metavar="IN.jsonl", type=Path)
    parser.add_argument("out", metavar="OUT.jsonl", type=Path)
    parser.add_argument("--rank", metavar="DIR", type=Path, required=True, help="an artifact")
    parser.add_argument(
        "--max-length",
        metavar="N",
        type=_positive,
        help="tokens of a pair; longer ones lose their end",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=_positive,
        default=1,
        help="above 1: so many processes on Ray",
    )
    parser.add_argument("--ray-address", metavar="ADDRESS", help="a running cluster, or auto")
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave broken lines out, and count them"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT.jsonl and begin anew")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a whole number from 1")
    return int(text)


def run(wish: argparse.Namespace) -> int:
    """Score the whole file. Raises BadInput, OutputRefused or ServingError."""
    say = under("score")
    score(
        wish.source,
        wish.out,
        wish.rank,
        max_length=wish.max_length,
        workers=wish.workers,
        ray_address=wish.ray_address,
        skip_broken=wish.skip_broken,
        force=wish.force,
        say=say,
    )
    say(f"done: {wish.out}")
    return 0


def score(
    source: Path,
    out: Path,
    artifact: Path,
    *,
    max_length: int | None,
    workers: int,
    ray_address: str | None,
    skip_broken: bool,
    force: bool,
    say: Say,
) -> None:
    """Write `out`; what is finished waits in `.<out>.rerank-score` until the last line is there."""
    place = file_place(out)
    refuse_inputs(out, source, artifact)
    refuse_inputs(work_folder(out, _PURPOSE), source, artifact)
    with closing(Input(source)) as asked, locked_work_folder(out, _PURPOSE) as folder:
        _refuse_others(folder)
        if not force:
            _refuse_present(place)
        asked.look_through()
        _refuse_broken(source, asked.broken, skip_broken, say)
        with closing(open_ranker(artifact, max_tokens=max_length)) as ranker:
            version, bound = ranker.info.version, ranker.info.max_tokens
        head = Head(
            input=asked.digest,
            lines=asked.lines,
            version=version,
            max_length=bound,
            skipped=asked.broken,
        )
        if force:
            _forget(folder)
        _begin(folder, head)
        journal = Journal(folder / _JOURNAL, _Line)
        done = sum(1 for _ in _checked(asked, journal))
        progress = Progress("lines", asked.scored, say, done)
        chunks = _chunks(islice(asked.good(), done, None))
        with journal.open() as writer:
            for scored in map_in_order(_Scorer, (artifact, bound), chunks, workers, ray_address):
                writer.write(*scored)
                progress.step(len(scored))
        if not force:
            _refuse_present(place)  # whoever put it there did not wait
        _publish(asked, journal, folder, place)
        _forget(folder)


def _refuse_present(place: Path) -> None:
    if place.exists():
        raise OutputRefused(f"{place} is there; name another file, or begin anew with --force")


def _refuse_others(folder: Path) -> None:
    for path in (folder / _HEAD, folder / _JOURNAL):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise OutputRefused(
                f"{path} is no file, as this command leaves one there; move {folder} away, or name "
                "another OUT.jsonl"
            )


def _forget(folder: Path) -> None:
    for name in (_JOURNAL, _HEAD):
        (folder / name).unlink(missing_ok=True)


def _refuse_broken(source: Path, broken: list[int], skip: bool, say: Say) -> None:
    if not broken:
        return
    shown = ", ".join(map(str, broken[:_SHOWN])) + (" …" if len(broken) > _SHOWN else "")
    if not skip:
        raise BadInput(
            f"{len(broken)} line(s) of {source} cannot be scored ({shown}): wanted JSON with a "
            "query and a list of passages, none of them blank; mend them, or leave them out with "
            "--skip-broken"
        )
    say(f"{len(broken)} broken line(s) are left out: {shown}")


def _begin(folder: Path, head: Head) -> None:
    """Write `head`, or find it there: what an earlier run scored is then the same."""
    file = folder / _HEAD
    if not file.exists():
        _forget(folder)
        with atomic_file(folder, file) as new:
            new.write(msgspec.json.encode(head))
        return
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OutputRefused(
            f"{file} is damaged ({error}), so nobody knows what an earlier run scored; {_ANEW}"
        ) from error
    if found != head:
        raise OutputRefused(
            f"{file} says that an earlier run scored other lines, or with another artifact or "
            f"length; {_ANEW}"
        )


def _chunks(lines: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    while chunk := list(islice(lines, CHUNK_LINES)):
        yield chunk


class _Scorer:
    """One worker's ranker: some of the input's lines, by number → as many of the journal's."""

    def __init__(self, artifact: Path, max_length: int) -> None:
        self._ranker = open_ranker(artifact, max_tokens=max_length)

    def __call__(self, lines: list[tuple[int, bytes]]) -> list[dict[str, Any]]:
        return [self._scored(*line) for line in lines]

    def _scored(self, number: int, line: bytes) -> dict[str, Any]:
        asked = decoded(number, line)
        logits = self._ranker.rank(asked.query, asked.passages, truncate="END").logits.tolist()
        named = {} if asked.id is None else {"id": asked.id}
        answer = {**named, "scores": logits}
        return {"check": _check(number, line, msgspec.json.encode(answer)), "answer": answer}

    def close(self) -> None:
        """Stop the engine."""
        self._ranker.close()


class _Line(msgspec.Struct, frozen=True):
    """A line of the journal: an answer, and what ties it to its line of the input."""

    check: str
    answer: msgspec.Raw


def _check(number: int, line: bytes, answer: bytes) -> str:
    """A digest of a line, its place and its answer: another line's answer, or a damaged one, has
    another."""
    digest = hashlib.blake2b(b"%d %d\n" % (number, len(line)), digest_size=_CHECK_BYTES)
    digest.update(line)
    digest.update(answer)
    return digest.hexdigest()


def _checked(asked: Input, journal: Journal[_Line]) -> Iterator[bytes]:
    """The answers in the journal, each that of its line. Raises OutputRefused."""
    good = asked.good()
    for count, entry in enumerate(journal.entries(), start=1):
        number, line = next(good, (0, b""))
        answer = bytes(entry.answer)
        if entry.check != _check(number, line, answer):
            raise OutputRefused(
                f"line {count} of {journal.path} is damaged, or the answer to another line than "
                f"now; {_ANEW}"
            )
        yield answer


def _publish(asked: Input, journal: Journal[_Line], folder: Path, place: Path) -> None:
    """Let `place` have the answers, when there is one to each line that can be scored."""
    count = 0
    with atomic_file(folder, place) as output:
        for answer in _checked(asked, journal):
            output.write(answer + b"\n")
            count += 1
        if count != asked.scored:
            raise OutputRefused(
                f"{journal.path} holds {count} answers, wanted {asked.scored}: the input has "
                f"changed meanwhile; {_ANEW}"
            )
