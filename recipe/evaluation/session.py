"""One evaluation on disk, to which the stages eval, export and deploy add columns.

`setting.json` (how), `candidates.json` (what is reranked), `scores/` (logits, query by query),
`eval_results.json` (figures), `drift.md` and `drift.svg` (where they change).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import msgspec

from recipe.corpus_images import Document, ImageText, passages
from recipe.durable import Journal, read_json
from recipe.errors import BadInput, Drifted, Worsened
from recipe.evaluation.candidates import CANDIDATES_FILE, Candidates, read_candidates
from recipe.evaluation.collection import Collection
from recipe.evaluation.drift import (
    Drift,
    find_drift,
    recall_sentences,
    verdict,
    write_drift,
)
from recipe.evaluation.labelled import open_collection
from recipe.evaluation.measured import Measured
from recipe.evaluation.metrics import Metrics, measure
from recipe.evaluation.pairs import Pair, worsening
from recipe.evaluation.results import (
    CHAIN,
    RETRIEVAL,
    Basis,
    Column,
    Results,
    add_column,
    read_results,
    refuse_other_basis,
    write_results,
)
from recipe.evaluation.scorers import Scorer
from recipe.evaluation.significance import Gain
from recipe.progress import Log, Progress
from runtime.outputs import locked_directory

SETTING_FILE, SCORES_FOLDER = "setting.json", "scores"
_HASH_DIGITS = 16
# In one request: fewer tiles than a server takes by default, and a body that it takes as base64.
_IMAGES_AT_ONCE, _IMAGE_BYTES_AT_ONCE = 8, 32 << 20


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """How all columns of the directory are measured; `key` is that of the candidates."""

    eval_data_path: str
    k_values: list[int]
    max_length: int
    prompt_template: str | None
    batch_size: int
    key: dict[str, str | int]


class _Head(msgspec.Struct, frozen=True):
    """The first line of a score file: its scores are valid while all of this is the same."""

    identity: str
    basis: Basis


class _Row(msgspec.Struct, frozen=True):
    """One query's logits, in the order of its candidates."""

    query: str
    logits: list[float]


class Session:
    """An evaluation with its candidates; `basis` is shared by all its columns."""

    def __init__(
        self, directory: Path, setting: Setting, collection: Collection, candidates: Candidates
    ) -> None:
        self.directory = directory
        self.setting = setting
        self.collection = collection
        self.candidates = candidates
        self.basis = Basis(
            eval_beir=collection.digest,
            candidates=_digest(candidates.key),
            prompt_template=setting.prompt_template,
            max_length=setting.max_length,
        )

    def drop_others(self) -> list[str]:
        """Remove columns measured on another basis or at other depths; returns their names."""
        results = read_results(self.directory)
        depths = {f"NDCG@{depth}" for depth in self.setting.k_values}
        others = [
            name
            for name, column in results.items()
            if column.basis != self.basis or set(column.NDCG) != depths
        ]
        if others:
            write_results(self.directory, {n: c for n, c in results.items() if n not in others})
        return others

    def add_retrieval(self, source: str, identity: str) -> list[str]:
        """Add the column of the first stage; returns sentences about its Recall."""
        metrics = measure(
            self.collection.grades, self._ranked(RETRIEVAL, identity), self.setting.k_values
        )
        column = self._column(metrics, source, identity)
        results = add_column(self.directory, RETRIEVAL, column)
        return recall_sentences(results, self.setting.k_values)

    def add(self, name: str, scorer: Scorer, log: Log) -> None:
        """Measure `scorer` as the column `name` of the results, which `write_drift` compares."""
        self._drop_before_measuring(name, scorer.identity, log)
        add_column(self.directory, name, self.measure(name, scorer, log))

    def measure(self, name: str, scorer: Scorer, log: Log) -> Column:
        """Rerank every query's candidates with `scorer`, and measure the order as column `name`.

        Scores are appended to scores/<name>.jsonl query by query; an interrupted run continues
        there. The results are not changed.
        """
        journal = self._journal(name)
        head = _Head(scorer.identity, self.basis)
        kept = journal.read()
        # An endpoint may serve another model by now: always measure it again.
        if not kept or kept[0] != head or not scorer.identity:
            self._file(name).unlink(missing_ok=True)
            kept = []
        done = {row.query for row in kept if isinstance(row, _Row)}
        found = self.candidates.found
        progress = Progress(f"{name}, queries", len(found), log, len(done))
        with journal.open() as output:
            if not kept:
                output.write(head)
            for query in (one for one in found if one not in done):
                documents = [self.collection.document(name) for name, _ in found[query]]
                logits: list[float] = []
                for some in _groups(documents):
                    logits += scorer.score(self.collection.queries[query], passages(some))
                output.write(_Row(query, logits))
                progress.step()
        return self.column(name, scorer.source, scorer.identity)

    def column(self, name: str, source: str, identity: str | None) -> Column:
        """The figures of the scores that were measured for the column `name`.

        Raises as `scores`.
        """
        scores = self.scores(name, identity)
        metrics = measure(self.collection.grades, scores, self.setting.k_values)
        return self._column(metrics, source, identity or "")

    def scores(self, name: str, identity: str | None = None) -> dict[str, dict[str, float]]:
        """For each query, the logit of each candidate by id, as measured for the column `name`.

        Raises BadInput when the scores of a query are missing, or are of another basis or of
        another model than `identity` (None: any), OutputRefused for a damaged file.
        """
        found, entries = self.candidates.found, self._journal(name).read()
        for head in (one for one in entries if isinstance(one, _Head)):
            refuse_other_basis(f"the column {name}", head.basis, self.basis)
            if identity not in (None, head.identity):
                raise BadInput(
                    f"{self._file(name)} holds the scores of the model {head.identity}, wanted "
                    f"those of {identity}; run the stage that measures the column {name} again"
                )
        rows = [row for row in entries if isinstance(row, _Row)]
        if {row.query: len(row.logits) for row in rows} != {
            q: len(row) for q, row in found.items()
        }:
            raise BadInput(
                f"{self._file(name)} holds the scores of {len(rows)} of {len(found)} queries; run "
                f"the stage that measures the column {name} again"
            )
        return {
            row.query: {
                document: logit
                for (document, _), logit in zip(found[row.query], row.logits, strict=True)
            }
            for row in rows
        }

    def _file(self, name: str) -> Path:
        return self.directory / SCORES_FOLDER / f"{name}.jsonl"

    def _journal(self, name: str) -> Journal[_Head | _Row]:
        return Journal(self._file(name), _Row, _Head)

    def _drop_before_measuring(self, name: str, identity: str, log: Log) -> None:
        """Drop the column whose scores are about to be replaced, and columns that depend on it.

        A column is in the results only while all its scores are on disk: if the measuring is
        killed, figures and scores still agree. Columns made from an older `finetuned` checkpoint
        are dropped with it.
        """
        results = read_results(self.directory)
        before = results.get(name)
        # An endpoint may serve another model by now: always drop its column.
        if before is None or (identity and before.identity == identity):
            return
        stale = [later for later in CHAIN[1:] if later in results] if name == CHAIN[0] else []
        if stale:
            log(f"dropped {', '.join(stale)}: made from another checkpoint")
        gone = {name, *stale}
        kept = {
            other: msgspec.structs.replace(
                column, against={n: g for n, g in column.against.items() if n not in gone}
            )
            for other, column in results.items()
            if other not in gone
        }
        write_results(self.directory, kept)

    def write_drift(self) -> Drift:
        """Write drift.md and drift.svg from all columns in the results, and their differences.

        Drift does not stop this; see `require_no_drift`. Raises BadInput for a column whose scores
        are not on disk.
        """
        results = read_results(self.directory)
        return self.compare([name for name in CHAIN if name in results], results)

    def compare(self, chain: Sequence[str], results: Results) -> Drift:
        """Write drift.md and drift.svg, and into the results the differences of every two columns.

        Each column of `chain` is compared with the one before it.
        """
        measured = self.measured(results)
        drift = find_drift(chain, measured)
        write_drift(self.directory, measured, drift)
        against: dict[str, dict[str, dict[str, Gain]]] = {name: {} for name in results}
        for pair in drift.pairs:
            against[pair.after][pair.before] = pair.gains
        compared = {
            name: msgspec.structs.replace(column, against=against[name])
            for name, column in results.items()
        }
        write_results(self.directory, compared)
        return drift

    def measured(self, results: Results) -> Measured:
        """The columns with their scores. Raises BadInput where those are not on disk."""
        scores = {name: self._ranked(name, column.identity) for name, column in results.items()}
        return Measured(results, scores, self.collection, self.setting.k_values)

    def _ranked(self, name: str, identity: str) -> dict[str, dict[str, float]]:
        """What the column ranks by: logits, or the cosines of the first stage."""
        if name != RETRIEVAL:
            return self.scores(name, identity)
        return {query: dict(found) for query, found in self.candidates.found.items()}

    def _column(self, metrics: Metrics, source: str, identity: str) -> Column:
        return Column(
            NDCG=metrics["NDCG"],
            MAP=metrics["MAP"],
            Recall=metrics["Recall"],
            Precision=metrics["Precision"],
            source=source,
            identity=identity,
            basis=self.basis,
        )


def open_session(directory: Path) -> Session:
    """The evaluation that the stage eval wrote to `directory`.

    Raises BadInput when there is none, or when its data has changed since.
    """
    setting = read_setting(directory)
    if setting is None:
        raise BadInput(f"found no evaluation in {directory}; run the stage eval first")
    candidates = read_candidates(directory / CANDIDATES_FILE, setting.key)
    if candidates is None:
        raise BadInput(
            f"{directory / CANDIDATES_FILE} is not from the last evaluation; run the stage "
            "eval again with --force"
        )
    folder = Path(setting.eval_data_path)
    if not folder.exists():
        raise BadInput(
            f"found no evaluation data at {folder} in {Path.cwd()}, with which {directory} was "
            "measured; run this in the directory in which the stage eval ran, or put them back"
        )
    collection = open_collection(folder)
    if collection.digest != setting.key["eval_beir"]:
        raise BadInput(
            f"{folder} has changed since it was measured: found {collection.digest}, wanted "
            f"{setting.key['eval_beir']}; figures of two sets are not comparable: run the stage "
            "eval again with --force"
        )
    return Session(directory, setting, collection, candidates)


@contextmanager
def sole_session(directory: Path) -> Iterator[Session]:
    """`open_session` with an exclusive lock. Raises OutputRefused when it is locked."""
    with locked_directory(directory) if directory.is_dir() else nullcontext():
        yield open_session(directory)


def add_checked_column(
    directory: Path, name: str, open_scorer: Callable[[Setting], Scorer], log: Log
) -> None:
    """Measure one more column of the evaluation in `directory`.

    Raises Drifted, after writing the results, when it moved past the tolerance.
    """
    with sole_session(directory) as session, closing(open_scorer(session.setting)) as scorer:
        session.add(name, scorer, log)
        drift = session.write_drift()
    require_no_drift(drift, directory / "drift.md")
    log(f"no drift past the tolerance; {directory / 'drift.md'}")


def read_setting(directory: Path) -> Setting | None:
    """The setting of the evaluation in `directory`; None when there is none. Raises BadInput."""
    file = directory / SETTING_FILE
    return read_json(
        file,
        Setting,
        lambda error: BadInput(f"{file} cannot be used ({error}); run the stage eval again"),
    )


def require_no_drift(drift: Drift, report: Path) -> None:
    """Raise Drifted when a column moved past the tolerance. The results are written before."""
    if sentence := drift_sentence(drift, report):
        raise Drifted(sentence)


def drift_sentence(drift: Drift, report: Path) -> str:
    """Which columns moved past the tolerance; "" for none."""
    if not drift.past:
        return ""
    moved = ", ".join(f"{metric} of {column}" for column, metric in drift.past)
    return (
        f"{verdict(drift)} Past the tolerance: {moved}; all figures and the worst queries are "
        f"in {report}"
    )


def require_no_worsening(pair: Pair, report: Path, advice: str) -> None:
    """Raise Worsened when a measure fell by more than chance. The results are written before."""
    if fallen := worsening(pair):
        raise Worsened(f"{fallen}; the worst queries are in {report}. {advice}")


def _groups(documents: list[Document]) -> Iterator[list[Document]]:
    """Neighbours, so that few images are in memory at a time; texts alone are one group."""
    group: list[Document] = []
    images = size = 0
    for document in documents:
        if isinstance(document, ImageText):
            images, size = images + 1, size + document.image.file_bytes
            if images > _IMAGES_AT_ONCE or (images > 1 and size > _IMAGE_BYTES_AT_ONCE):
                yield group
                group, images, size = [], 1, document.image.file_bytes
        group.append(document)
    yield group


def _digest(key: dict[str, str | int]) -> str:
    return hashlib.sha256(msgspec.json.encode(sorted(key.items()))).hexdigest()[:_HASH_DIGITS]
