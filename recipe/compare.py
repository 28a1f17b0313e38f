"""rerank compare A B: rerank the same candidates with two models, and report the differences.

A and B are artifacts, checkpoints or URLs with /v1/ranking. The candidates and their settings are
those of the stage eval, in its output_dir; settings that would change them are refused.
"""

import argparse
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import httpx

from recipe.config import EvalConfig
from recipe.config_files import load
from recipe.errors import BadConfig, Drifted, OutputRefused
from recipe.evaluation.results import write_results
from recipe.evaluation.scorers import is_url, open_scorer
from recipe.evaluation.session import SCORES_FOLDER, Session, require_no_worsening, sole_session
from recipe.evaluation.vision import require_sight
from recipe.progress import Log, stage_log

ABOUT = "measure two artifacts, checkpoints or URLs over eval's candidates"
_FOLDER = "compare"
# Settings of the stage eval that locate its evaluation, and that say how endpoints are called.
_USED = ("output_dir", "batch_size", "nim_batch_size", "nim_timeout", "nim_api_key_env")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments A and B."""
    parser.add_argument("a", metavar="A", help="artifact, checkpoint or URL")
    parser.add_argument("b", metavar="B", help="likewise; compared with A")


def run(args: argparse.Namespace) -> int:
    """Return 0 when B is not worse than A; raises Worsened (exit 3), after writing, when it is by
    more than chance, and Drifted (exit 1) when it is past the tolerance."""
    settings = load(args.config, ["eval"], args.overrides).eval
    _refuse_unused(args.overrides)
    with sole_session(Path(settings.output_dir)) as session:
        report = compare(args.a, args.b, session, settings, stage_log("compare"))
    sys.stdout.write(report.read_text(encoding="utf-8"))
    return 0


def _refuse_unused(overrides: Iterable[str]) -> None:
    for override in overrides:
        name = override.partition("=")[0]
        key = name.removeprefix("eval.")
        if key not in _USED:
            why = (
                "an endpoint ranks with the model that it serves"
                if key == "nim_model"
                else "candidates, depths, prompt and length are those of the stage eval; run eval "
                "with this setting first"
            )
            raise BadConfig(f"found {name}, wanted one of {', '.join(_USED)}: {why}")


def compare(a: str, b: str, session: Session, settings: EvalConfig, log: Log) -> Path:
    """Measure both and write compare/drift.md beside the evaluation; returns its path.

    Raises BadConfig or BadInput for a model that cannot be measured, OutputRefused for a foreign
    folder, and Worsened or Drifted after the report is written.
    """
    _refuse_key_for_two(a, b, settings)
    directory = session.directory / _FOLDER
    if directory.exists() and not (directory / SCORES_FOLDER).is_dir():
        raise OutputRefused(f"{directory} was not made by this command; move it away")
    setting, columns = session.setting, {}
    checked = [source for source in (a, b) if not is_url(source)]
    require_sight(session.collection, checked, setting.max_length)
    beside = Session(directory, setting, session.collection, session.candidates)
    for name, source in (("A", a), ("B", b)):
        with closing(
            open_scorer(source, setting.prompt_template, setting.max_length, settings)
        ) as scorer:
            columns[name] = beside.measure(name, scorer, log)
    write_results(directory, columns)
    drift = beside.compare(["A", "B"], columns)
    report = directory / "drift.md"
    (pair,), (step,) = drift.pairs, drift.boundaries
    require_no_worsening(pair, report, f"A is {a}, B is {b}")
    fallen = [f"{metric} {step.deltas[metric]:+.4f}" for metric in step.fallen]
    if fallen:
        raise Drifted(
            f"B is below A past the tolerance ({', '.join(fallen)}), which may be chance; see "
            f"{report}"
        )
    return report


def _refuse_key_for_two(a: str, b: str, settings: EvalConfig) -> None:
    """Refuse one key for two servers: the key must not be sent to the wrong one."""
    if settings.nim_api_key_env is None or not (is_url(a) and is_url(b)):
        return
    try:
        servers = {(url.scheme, url.host, url.port) for url in (httpx.URL(a), httpx.URL(b))}
    except httpx.InvalidURL as error:
        raise BadConfig(f"found {a} and {b}, wanted two URLs: {error}") from error
    if len(servers) > 1:
        raise BadConfig(
            "found nim_api_key_env and two servers, wanted one server to send the key to; compare "
            "each of them with an artifact or a checkpoint, or omit the key"
        )
