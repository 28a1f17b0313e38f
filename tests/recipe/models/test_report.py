"""report.html: what is on it, what is said where something is missing, and that no text is run."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import msgspec
import pytest

from recipe import cli
from recipe.cli import main
from recipe.config import EvalConfig
from recipe.durable import read_json, write_json
from recipe.errors import StageFailed
from recipe.evaluation import session
from recipe.evaluation.collection import Collection
from recipe.evaluation.labelled import open_collection
from recipe.evaluation.pairs import Pair
from recipe.evaluation.session import open_session
from recipe.evaluation.significance import Gain
from recipe.reporting.evaluation_part import Evaluated, verdict
from recipe.reporting.markup import element, foreign, page, table
from recipe.stage import Provenance
from runtime.outputs import locked_directory

pytestmark = pytest.mark.usefixtures("undrawn")

RUN = Path("output/rerank")
HOSTILE = "</bdi><script>alert(1)</script><img src=x onerror=alert(2)> \x00\x1b[31m &amp; \u202egnp"
VOID = {"meta", "img", "br", "link", "input"}


class Reader(HTMLParser):
    """Balanced tags, with the text of each part."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: list[str] = []
        self._open: list[str] = []
        self._parts: list[list[str]] = [[]]
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag == "h2":
            self._parts.append([])
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self._parts[-1].append(data)

    def part(self, heading: str) -> str:
        """All text below the heading."""
        (found,) = (" ".join(p) for p in self._parts if p and p[0] == heading)
        return found


def read(folder: Path = RUN) -> Reader:
    return Reader((folder / "report.html").read_text("utf-8"))


def test_a_run_ends_with_its_page(finished: Path) -> None:
    found = read(finished / RUN)
    assert re.search(
        r"base → finetuned: NDCG@10 .* over 6 queries", found.part("Does it rank better?")
    )
    columns = found.part("From base to endpoint")
    results = json.loads((finished / RUN / "stage3_eval/eval_results.json").read_bytes())
    for column in results.values():
        assert f"{column['NDCG']['NDCG@10']:.4f}" in columns
    gain = results["onnx"]["against"]["finetuned"]["NDCG@10"]
    assert f"finetuned → onnx {gain['difference']:+.4f}" in columns
    assert f"{gain['low']:+.4f} … {gain['high']:+.4f}" in columns
    training = found.part("Training")
    assert "validation" in training
    assert "./prep/train_mined.json" in training
    assert "step that was kept 9 " in training
    assert "finetuned → onnx" in found.part("Scores")
    assert "Worst queries, base → finetuned" in found.part("Queries")
    assert "The stage prep has not run." in found.part("Data")
    assert "sdg not run" in found.part("Stages")
    assert "learning_rate 0.001" in found.part("Settings and origin")
    assert len(found.ids) == len(set(found.ids)) == 10
    assert not {"script", "img", "link", "iframe"} & set(found.tags)
    links = {value for name, value in found.attributes if name in ("href", "src")}
    assert links == {f"#{name}" for name in found.ids}


@pytest.mark.usefixtures("copied")
def test_a_strangers_text_is_shown_and_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def hostile(path: Path) -> Collection:
        found = open_collection(path)
        return replace(found, queries={name: f"{HOSTILE} {name}" for name in found.queries})

    monkeypatch.setattr(session, "open_collection", hostile)
    assert main(["report", str(RUN)]) == 0
    found = read()
    assert not {"script", "img"} & set(found.tags)
    assert "</bdi><script>alert(1)</script><img src=x onerror=alert(2)>" in found.part("Queries")
    assert not {"\x00", "\x1b"} & set(found.part("Queries"))


@pytest.mark.usefixtures("copied")
def test_other_data_than_those_measured_are_said() -> None:
    queries = Path("prep/eval_beir/queries.jsonl")
    queries.write_text(queries.read_text().replace("violin", "viola"))
    assert main(["report", str(RUN)]) == 0
    assert "has changed since it was measured" in read().part("Queries")


def test_no_text_becomes_markup() -> None:
    html = page(HOSTILE, [("one", HOSTILE, [table(HOSTILE, ["", HOSTILE], [[HOSTILE, HOSTILE]])])])
    text = html.decode()
    found = Reader(text)
    assert not {"script", "img"} & set(found.tags)
    assert "\x00" not in text
    assert "\x1b" not in text
    assert "\ufffd" in text
    assert "default-src 'none'" in text
    assert ("name", "viewport") in found.attributes
    # A half of a surrogate pair, which no file in UTF-8 can hold.
    assert "\ufffd".encode() in page("\ud800", [])
    assert element("a", element("b"), "x", "y")[0].tail == "xy"
    assert (foreign("a " * 400).text or "").endswith("…")


@pytest.mark.usefixtures("copied")
def test_what_is_missing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "prep"]) == 1
    assert "found no folder of a stage in prep" in capsys.readouterr().err
    (RUN / "report.html").write_text("<p>mine</p>")
    for line in (["report", str(RUN)], ["run", "-c", "c.toml", "--from", "eval", "--to", "eval"]):
        assert main(line) == 1
        assert "report.html is no report of this command" in capsys.readouterr().err
    assert (RUN / "report.html").read_text() == "<p>mine</p>"
    (RUN / "report.html").unlink()
    with locked_directory(RUN / "stage3_eval"):
        assert main(["report", str(RUN)]) == 1
    assert "another command works in" in capsys.readouterr().err
    done = RUN / "stage3_eval/done.json"
    done.write_text(done.read_text().replace('"seeds": 1', '"seeds": 2'))
    shutil.rmtree(RUN / "stage2_finetune")
    assert main(["report", str(RUN)]) == 0
    assert "finetuned-seed-1.jsonl holds the scores of 0 of 6 queries" in read().part("Seeds")
    (RUN / "stage3_eval/scores/base.jsonl").unlink()
    assert main(["report", str(RUN)]) == 0
    found = read()
    assert "The stage finetune has not run." in found.part("Training")
    assert "base.jsonl holds the scores of 0 of 6 queries" in found.part("Does it rank better?")
    shutil.rmtree(RUN / "stage3_eval")
    assert main(["report", str(RUN)]) == 0
    assert "The stage eval has not run." in read().part("Forgetting")


def settle(name: str, **settings: Any) -> None:
    """Change what the mark of a stage says of its settings; None: remove."""
    file = RUN / name / "done.json"
    done = read_json(file, Provenance)
    assert done is not None
    for key, value in settings.items():
        done.settings.pop(key) if value is None else done.settings.update({key: value})
    write_json(file, done)


@pytest.mark.usefixtures("copied")
def test_seeds_and_passwords() -> None:
    """What two more seeds add, each of its own scores, and what a page must not tell."""
    home = RUN / "stage3_eval"
    scores = home / "scores"
    shutil.copy(scores / "base.jsonl", scores / "finetuned-seed-1.jsonl")
    head, *rows = map(json.loads, (scores / "finetuned.jsonl").read_text().splitlines())
    turned = [head, *({**row, "logits": [-one for one in row["logits"]]} for row in rows)]
    (scores / "finetuned-seed-2.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in turned))
    settle("stage3_eval", seeds=3, nim_url="http://me:sec@ret@host:8000")
    assert main(["report", str(RUN)]) == 0
    found = read()
    measured = open_session(home)
    columns = [
        measured.column(name, "", None).NDCG["NDCG@10"]
        for name in ("finetuned", "finetuned-seed-1", "finetuned-seed-2")
    ]
    assert len(set(columns)) == 3
    seeds = " ".join(found.part("Seeds").split())
    assert f"NDCG@10 {columns[1]:.4f} {fmean(columns):.4f} {stdev(columns):.4f} " in seeds
    origin = found.part("Settings and origin")
    assert "http://host:8000" in origin
    assert "ret@" not in origin
    assert EvalConfig().nim_url not in origin
    # Trained again, and not measured.
    again = RUN / "stage2_finetune/checkpoints/seeds/2/LATEST/model/consolidated"
    again.mkdir(parents=True)
    (again / "config.json").write_text("{}")
    assert main(["report", str(RUN)]) == 0
    assert "finetuned-seed-2.jsonl holds the scores of the model" in read().part("Seeds")


@pytest.mark.usefixtures("copied")
def test_what_was_forgotten_is_said_on_top() -> None:
    home = RUN / "stage3_eval"
    shutil.copytree(home, home / "guard")
    shutil.copytree("prep/eval_beir", "prep/second")
    for name, change in (
        ("setting.json", lambda whole: whole.update(eval_data_path="prep/second")),
        (
            "eval_results.json",
            lambda whole: whole["finetuned"]["against"]["base"]["NDCG@10"].update(FALLEN),
        ),
    ):
        whole = json.loads((home / "guard" / name).read_bytes())
        change(whole)
        (home / "guard" / name).write_text(json.dumps(whole))
    settle("stage3_eval", guard_data_path="other")
    assert main(["report", str(RUN)]) == 0
    found = read()
    guard = " ".join(found.part("Forgetting").split())
    assert "Data: prep/second base → finetuned: NDCG@10 -0.1234" in guard
    top = found.part("Does it rank better?")
    assert "Against forgetting: base → finetuned: NDCG@10 -0.1234" in top
    assert top.count("-0.1234") == 1
    shutil.rmtree(home / "guard")
    assert main(["report", str(RUN)]) == 0
    assert "This cannot be shown: found no evaluation in" in read().part("Does it rank better?")


SAME = {"difference": 0.01, "low": -0.1, "high": 0.1, "p": 0.9, "corrected_p": 0.9}
FALLEN = {"difference": -0.1234, "low": -0.2, "high": -0.1, "p": 0.0008, "corrected_p": 0.0008}
RISEN = {"difference": 0.2, "low": 0.1, "high": 0.3, "p": 0.0008, "corrected_p": 0.0008}


@pytest.mark.parametrize(
    ("quoted", "other", "kind", "said"),
    [
        (RISEN, SAME, "better", "better."),
        (RISEN, FALLEN, "worse", "finetuned is worse than base over 9 queries: Recall@5 -0.1234"),
        (FALLEN, SAME, "worse", "worse."),
        (SAME, RISEN, "same", "not more than chance."),
    ],
)
def test_the_verdict_is_that_of_the_stage(
    quoted: dict[str, float], other: dict[str, float], kind: str, said: str
) -> None:
    rest: dict[str, Any] = {"wins": 5, "losses": 4, "ties": 0, "queries": 9, "needed": 90}
    gains = {
        name: msgspec.convert({**one, **rest}, Gain)
        for name, one in (("NDCG@10", quoted), ("Recall@5", other))
    }
    nothing: Any = None
    pair = Pair("base", "finetuned", "NDCG@10", gains, 0)
    found = verdict(Evaluated(nothing, nothing, [pair]))
    assert found.get("class") == f"verdict {kind}"
    assert said in (found.text or "")
    assert ("is worse than" in (found.text or "")) == (other is FALLEN)


@pytest.mark.usefixtures("copied")
def test_parts_that_do_not_belong_together_are_said() -> None:
    """And a part that is damaged in an unknown way costs no other."""
    settle("stage2_finetune", checkpoint_dir=None)
    checkpoint = RUN / "stage2_finetune/checkpoints/LATEST/model/consolidated"
    assert main(["report", str(RUN)]) == 0
    found = read()
    assert "This cannot be shown: KeyError: 'checkpoint_dir'" in found.part("Training")
    assert "that was measured" not in found.part("Does it rank better?")
    (checkpoint / "config.json").write_text("{}")
    assert main(["report", str(RUN)]) == 0
    assert "is not the one that was measured" in read().part("Does it rank better?")
    shutil.rmtree(checkpoint)
    assert main(["report", str(RUN)]) == 0
    assert "is no longer there" in read().part("Does it rank better?")
    scores = RUN / "stage3_eval/scores/finetuned.jsonl"
    identity = json.loads(scores.read_text().splitlines()[0])["identity"]
    scores.write_text(scores.read_text().replace(identity, "another"))
    assert main(["report", str(RUN)]) == 0
    assert "holds the scores of the model another" in read().part("Does it rank better?")
    basis = json.loads((RUN / "stage3_eval/eval_results.json").read_bytes())["base"]["basis"]
    base = RUN / "stage3_eval/scores/base.jsonl"
    base.write_text(base.read_text().replace(basis["candidates"], "others"))
    assert main(["report", str(RUN)]) == 0
    assert "measured with candidates = 'others'" in read().part("Does it rank better?")


@pytest.mark.usefixtures("copied")
def test_a_failed_run_has_its_page_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> bool:
        raise StageFailed("no answer from http://me:secret@host")

    def interrupted(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    assert "did not end well" not in (RUN / "report.html").read_text("utf-8")
    monkeypatch.setattr(cli, "perform", fails)
    line = ["run", "-c", "c.toml", "--from", "finetune", "--to", "eval"]
    assert main(line) == 1
    failed = read().part("The run did not end well")
    assert "The stage finetune ended: no answer from http://host" in failed
    monkeypatch.setattr(cli, "perform", interrupted)
    assert main(line) == 130
    assert "The stage finetune was interrupted." in read().part("The run did not end well")
    monkeypatch.setattr(cli, "perform", fails)
    # Another command works there: the error of the run is the one that is told.
    with locked_directory(RUN / "stage3_eval"):
        assert main(line) == 1


@pytest.mark.usefixtures("copied")
def test_columns_of_an_earlier_version_are_compared_anew() -> None:
    file = RUN / "stage3_eval/eval_results.json"
    results = json.loads(file.read_bytes())
    wanted = Gain(**results["finetuned"]["against"]["base"]["NDCG@10"])
    for column in results.values():
        column["against"] = {}
    file.write_text(json.dumps(results))
    assert main(["report", str(RUN)]) == 0
    assert f"NDCG@10 {wanted.difference:+.4f}" in read().part("Does it rank better?")
