"""The pictures of a training run and of drift."""

import json
from pathlib import Path
from xml.etree import ElementTree

from recipe.evaluation.session import open_session
from recipe.training.curves import write_curves

EVAL = Path("output/rerank/stage3_eval")
METRICS = Path("output/rerank/stage2_finetune/checkpoints/metrics.jsonl")
SVG = "{http://www.w3.org/2000/svg}svg"


def test_the_course_of_a_training_is_drawn(finished: Path, tmp_path: Path) -> None:
    metrics = (finished / METRICS).read_bytes()
    write_curves(tmp_path, [json.loads(line) for line in metrics.splitlines()])
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics
    assert ElementTree.parse(tmp_path / "curves.svg").getroot().tag == SVG


def test_what_changed_at_each_boundary_is_drawn(copied: Path) -> None:
    assert (copied / EVAL / "drift.svg").read_text() == "<svg/>"
    open_session(copied / EVAL).write_drift()
    assert ElementTree.parse(copied / EVAL / "drift.svg").getroot().tag == SVG
