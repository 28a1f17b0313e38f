"""rerank compare A B: the same candidates reranked by two things, and where they differ.

A and B are artifacts, checkpoints or URLs with /v1/ranking. Uses the candidates of the stage eval.
"""

import argparse
import sys
from pathlib import Path

from recipe.config import DEFAULT, load
from recipe.errors import Drifted
from recipe.evaluation.column import measure_column, read_scores
from recipe.evaluation.drift import find_drift, write_drift
from recipe.evaluation.results import Column, write_results
from recipe.evaluation.scorers import open_scorer
from recipe.evaluation.session import Session, open_session
from recipe.progress import Say, under

ABOUT = "measure two artifacts, checkpoints or URLs over eval's candidates"
_FOLDER = "compare"
_TIMEOUT_S = 60.0
# Endpoints take at least so many passages in one request.
_MOST_ROWS = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A, B and the configuration whose evaluation is used."""
    parser.add_argument("a", metavar="A", help="artifact, checkpoint or URL")
    parser.add_argument("b", metavar="B", help="likewise; measured against A")
    parser.add_argument("-c", "--config", default=DEFAULT, metavar="NAME|PATH")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="keys of the stage eval")


def run(wish: argparse.Namespace) -> int:
    """0 when B ranks as A does; raises Drifted (exit 1) past the tolerance, after writing."""
    settings = load(wish.config, ["eval"], wish.overrides).eval
    report = compare(wish.a, wish.b, open_session(Path(settings.output_dir)), under("compare"))
    sys.stdout.write(report.read_text(encoding="utf-8"))
    return 0


def compare(a: str, b: str, session: Session, say: Say) -> Path:
    """Measure both and write compare/drift.md beside the evaluation; returns its path.

    Raises BadInput for things that cannot be measured, and Drifted once the report is on disk.
    """
    directory = session.directory / _FOLDER
    columns = {name: _measure(name, source, session, say) for name, source in (("A", a), ("B", b))}
    write_results(directory, columns)
    scores = {name: read_scores(directory, name, session.candidates) for name in columns}
    depths = session.setting.k_values
    drift = find_drift(["A", "B"], columns, scores, session.collection, depths)
    write_drift(directory, columns, drift, session.collection, depths)
    report = directory / "drift.md"
    if drift.past:
        moved = ", ".join(metric for _, metric in drift.past)
        raise Drifted(f"B ranks otherwise than A past the tolerance ({moved}); see {report}")
    return report


def _measure(name: str, source: str, session: Session, say: Say) -> Column:
    setting = session.setting
    scorer = open_scorer(
        source,
        template=setting.prompt_template,
        max_tokens=setting.max_length,
        batch_size=min(setting.batch_size, _MOST_ROWS),
        timeout_s=_TIMEOUT_S,
    )
    try:
        return measure_column(
            name,
            scorer,
            session.collection,
            session.candidates,
            session.basis,
            setting.k_values,
            session.directory / _FOLDER,
            say,
        )
    finally:
        scorer.close()
