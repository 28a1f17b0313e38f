"""rerank score IN.jsonl OUT.jsonl: score large files offline, on the engine that serves.

A line of IN is {"query": …, "passages": […]} with an optional "id"; the line of OUT with the same
number is {"id"?, "scores": […]}, raw logits in the order of the passages. Rows of neighbouring
lines share calls of the engine. So the number of workers, and where a run was stopped and resumed,
may move a score by the rounding of its sums: some 1e-6 of a float32 engine's.
"""

import argparse
import hashlib
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from recipe.durable import Journal, write_json
from recipe.errors import BadInput, OutputRefused
from recipe.progress import Progress, Say, under
from recipe.ray_workers import map_in_order
from runtime.opening import open_ranker

ABOUT = "score a large file of queries and passages offline"
# Lines that one worker takes at a time, and that are lost at most when a run is killed.
CHUNK_LINES = 32
_SHOWN = 10


class Asked(msgspec.Struct):
    """One line of the input."""

    query: str
    passages: list[str]
    id: str | int | None = None


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
    """Write `out`; what is finished stands in `<out>.partial` until the last line is there."""
    partial, head_file = out.with_name(out.name + ".partial"), out.with_name(out.name + ".head")
    if out.resolve() == source.resolve():
        raise OutputRefused(f"{out} is the input itself; name another file for the scores")
    if force:
        for path in (out, partial, head_file):
            path.unlink(missing_ok=True)
    if out.exists():
        raise OutputRefused(f"{out} is there; name another file, or begin anew with --force")
    digest, lines, broken = _look_through(source)
    _refuse_broken(source, broken, skip_broken, say)
    with closing(open_ranker(artifact, max_tokens=max_length)) as ranker:
        version, bound = ranker.info.version, ranker.info.max_tokens
    head = Head(input=digest, lines=lines, version=version, max_length=bound, skipped=broken)
    done = _done_lines(partial, head_file, head)
    progress = Progress("lines", lines - len(broken), say, done)
    chunks = _chunks(source, set(broken), done)
    with Journal(partial).open() as writer:
        for scored in map_in_order(_Scorer, (artifact, bound), chunks, workers, ray_address):
            writer.write(*scored)
            progress.step(len(scored))
    partial.replace(out)
    head_file.unlink()


_DECODER = msgspec.json.Decoder(Asked)


class _Scorer:
    """One worker's ranker: some of the input's lines → as many of the output's."""

    def __init__(self, artifact: Path, max_length: int) -> None:
        self._ranker = open_ranker(artifact, max_tokens=max_length)

    def __call__(self, lines: list[bytes]) -> list[dict[str, Any]]:
        return [self._scored(_DECODER.decode(line)) for line in lines]

    def _scored(self, asked: Asked) -> dict[str, Any]:
        logits = self._ranker.rank(asked.query, asked.passages, truncate="END").logits.tolist()
        named = {} if asked.id is None else {"id": asked.id}
        return {**named, "scores": logits}

    def close(self) -> None:
        """Stop the engine."""
        self._ranker.close()


def _look_through(source: Path) -> tuple[str, int, list[int]]:
    """sha256 of the input, its lines, and the numbers of those that cannot be scored."""
    digest, broken, number = hashlib.sha256(), [], 0
    try:
        with source.open("rb") as file:
            for number, line in enumerate(file, start=1):
                digest.update(line)
                if not _can_be_scored(line):
                    broken.append(number)
    except OSError as error:
        raise BadInput(f"cannot read {source}: {error.strerror}") from error
    if number == len(broken):
        raise BadInput(
            f"found no line that can be scored among {number} in {source}, wanted "
            '{"query": "…", "passages": ["…"]} on each'
        )
    return digest.hexdigest(), number, broken


def _can_be_scored(line: bytes) -> bool:
    try:
        asked = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    texts = [asked.query, *asked.passages]
    return len(texts) > 1 and not any(not t or t.isspace() or "\0" in t for t in texts)


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


def _done_lines(partial: Path, head_file: Path, head: Head) -> int:
    """How many of the input's good lines an earlier run has scored."""
    if not head_file.exists():
        partial.unlink(missing_ok=True)
        write_json(head_file, head)
    done = Journal(partial).count()
    if msgspec.json.decode(head_file.read_bytes(), type=Head) != head:
        raise OutputRefused(
            f"{head_file} says that an earlier run scored other lines, or with another artifact "
            "or length; begin anew with --force, or name another OUT.jsonl"
        )
    return done


def _chunks(source: Path, broken: set[int], done: int) -> Iterator[list[bytes]]:
    with source.open("rb") as file:
        good = (line for number, line in enumerate(file, start=1) if number not in broken)
        rest = islice(good, done, None)
        while chunk := list(islice(rest, CHUNK_LINES)):
            yield chunk
