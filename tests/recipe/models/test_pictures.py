"""The pictures of a training run and of drift, in files and inside a page."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from recipe.evaluation.pictures import draw_gains, draw_order
from recipe.evaluation.session import open_session
from recipe.evaluation.significance import Gain
from recipe.picture import new_figure
from recipe.reporting.charts import chart
from recipe.training.curves import write_curves

EVAL = Path("output/rerank/stage3_eval")
METRICS = Path("output/rerank/stage2_finetune/checkpoints/metrics.jsonl")
SVG = "{http://www.w3.org/2000/svg}svg"


def gain(difference: float, low: float, high: float) -> Gain:
    whole: dict[str, Any] = dict.fromkeys(("wins", "losses", "ties", "queries", "needed"), 1)
    return Gain(difference=difference, low=low, high=high, p=1.0, corrected_p=1.0, **whole)


def test_the_course_of_a_training_is_drawn(finished: Path, tmp_path: Path) -> None:
    metrics = (finished / METRICS).read_bytes()
    write_curves(tmp_path, [json.loads(line) for line in metrics.splitlines()])
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics
    assert ElementTree.parse(tmp_path / "curves.svg").getroot().tag == SVG


def test_what_changed_at_each_boundary_is_drawn(copied: Path) -> None:
    assert (copied / EVAL / "drift.svg").read_text() == "<svg/>"
    open_session(copied / EVAL).write_drift()
    assert ElementTree.parse(copied / EVAL / "drift.svg").getroot().tag == SVG


def test_small_differences_fill_their_axis() -> None:
    axes = new_figure().subplots()
    draw_gains(axes, {"NDCG@10": gain(0.013, -0.005, 0.031), "NDCG@5": gain(0.02, 0.025, 0.03)})
    left, right = axes.get_xlim()
    assert -0.01 < left < -0.005 < 0.031 < right < 0.04
    (bars,) = axes.containers
    (lines,) = bars.lines[2]
    ends = [segment[:, 0].round(6).tolist() for segment in lines.get_segments()]
    # An interval that does not hold its difference is drawn as far as it goes.
    assert ends == [[-0.005, 0.031], [0.02, 0.03]]
    axes = new_figure().subplots()
    draw_order(axes, {"a → b": 0.998, "b → c": 1.0, "c → d": None}, 0.99)
    left, right = axes.get_xlim()
    assert 0.98 < left < 0.99
    assert 1 < right < 1.01
    assert [one.get_text() for one in axes.get_yticklabels()] == ["a → b", "b → c"]


def test_a_chart_takes_the_colours_of_its_page() -> None:
    def draw(axes: Any) -> None:
        axes.plot([1, 2], [3, 4], label="<b>", marker=".")
        axes.legend()

    made = [chart(title, "rises", draw) for title in ("One", "Other")]
    text = ElementTree.tostring(made[0], encoding="unicode", method="html")
    assert 'aria-label="One. rises"' in text
    assert "var(--series-1)" in text
    assert "currentColor" in text
    assert "&lt;b&gt;" in text
    for absent in ("#000000", "#1f77b4", "http", "<style", "<metadata", "xmlns"):
        assert absent not in text
    ids = [one.attrib["id"] for figure in made for one in figure.iter() if "id" in one.attrib]
    assert len(ids) == len(set(ids)) > 0
    used = {
        value.strip("url(#)")
        for figure in made
        for one in figure.iter()
        for name, value in one.attrib.items()
        if name in ("href", "clip-path")
    }
    assert used == set(ids)
