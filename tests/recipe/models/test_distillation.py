"""Training on a teacher's margins: its scores, asked once, and the loss."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recipe import distillation
from recipe.cli import main
from recipe.config_files import load
from recipe.errors import BadConfig, BadInput, StageFailed
from recipe.stage import DONE_FILE, STARTED_FILE
from recipe.training.groups import read_groups
from recipe.training.losses import margin_mse
from recipe.training.teacher_scores import keep_to_scores, read_scores, scored
from recipe.training.trainer import Reporter
from tests.recipe.killing import interrupt_after
from tests.recipe.models.test_finetune import (
    CONSOLIDATED,
    losses,
    stop_at_the_first_checkpoint,
    weights,
)

pytestmark = pytest.mark.usefixtures("undrawn")


PROBES = 4  # questions of an endpoint's that are asked again


class Teacher:
    """Scores a passage by its length; broken at the question number `breaks_at`."""

    source, identity = "teacher", ""

    def __init__(self, broken: Any = None, breaks_at: int = -1, shift: float = 0.0) -> None:
        self.asked: list[str] = []
        self._broken, self._breaks_at, self._shift = broken, breaks_at, shift

    def score(self, query: str, passages: list[str]) -> list[float]:
        self.asked.append(query)
        if len(self.asked) - 1 == self._breaks_at:
            return list(self._broken(passages))
        return [len(text) + self._shift for text in passages]

    def close(self) -> None:
        pass


Ask = Callable[..., list[str]]


@pytest.fixture
def ask(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Asks a teacher for all scores, and returns what it was asked."""

    def asked(teacher: Teacher, *overrides: str, log: Any = lambda _: None) -> list[str]:
        monkeypatch.setattr(distillation, "_opened", lambda _: teacher)
        given = ["teacher=http://teacher:8000", *overrides]
        distillation.ask_teacher(load("c.toml", ["finetune"], given).finetune, log)
        return teacher.asked

    assert fresh == Path.cwd()
    return asked


def scores_file(folder: Path) -> Path:
    (found,) = (folder / "prep").glob("train_mined.json.teacher-*.jsonl")
    return found


def failing(_: object) -> list[float]:
    raise BadInput("the endpoint returned no ranking")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (failing, r"the teacher teacher failed \(the endpoint returned no ranking\)"),
        (lambda texts: [1.0] * (len(texts) - 1), "gave 2 scores for 3 passages of the question"),
        (lambda texts: [float("nan")] * len(texts), "gave the score nan for a passage of the"),
        (lambda texts: [float("inf")] * len(texts), "wanted finite numbers"),
    ],
)
def test_a_teacher_that_fails_goes_on_where_it_stopped(
    ask: Ask, fresh: Path, broken: Any, message: str
) -> None:
    with pytest.raises(StageFailed, match=message):
        ask(Teacher(broken, 5))
    lines: list[str] = []
    asked = ask(Teacher(), log=lines.append)
    assert len(asked) == 14 + 4 - 5 + PROBES  # those are stored, and asked again
    assert len(read_scores(scores_file(fresh))) == 18
    assert "teacher, questions: 13 of 13" in lines


def test_scores_of_the_same_teacher_are_used_again(ask: Ask, fresh: Path) -> None:
    assert len(ask(Teacher())) == 18
    assert len(ask(Teacher(shift=0.01))) == PROBES
    lines: list[str] = []
    # Down: nothing is missing.
    assert len(ask(Teacher(failing, 0), log=lines.append)) == 1
    assert any("used as they are stored" in line for line in lines)
    # More of each training question's passages: the others alone.
    before = scores_file(fresh).read_bytes()
    assert len(ask(Teacher(), "sample_negatives=true")) == PROBES + 14
    assert scores_file(fresh).read_bytes().startswith(before)


def test_more_passages_of_every_question_ask_for_those_alone(ask: Ask, fresh: Path) -> None:
    ask(Teacher(), "train_n_passages=2")
    before = scores_file(fresh).read_bytes()
    lines: list[str] = []
    assert len(ask(Teacher(), log=lines.append)) == PROBES + 18
    assert scores_file(fresh).read_bytes().startswith(before)
    assert not any("asked anew" in line for line in lines)


def test_a_file_without_a_line_gets_its_head(ask: Ask, fresh: Path) -> None:
    ask(Teacher())
    head = scores_file(fresh).read_text().splitlines()[0]
    for left in ("", head[:9]):  # as killed runs leave it
        scores_file(fresh).write_text(left)
        assert len(ask(Teacher())) == 18
        assert scores_file(fresh).read_text().startswith(head + "\n")


def test_scores_of_other_passages_are_not_said_to_be_of_another_model(
    ask: Ask, fresh: Path
) -> None:
    ask(Teacher())
    head, *_ = scores_file(fresh).read_text().splitlines()
    scores_file(fresh).write_text(f'{head}\n{{"question":"q_1","scores":{{"d_1":1.0}}}}\n')
    lines: list[str] = []
    assert len(ask(Teacher(), log=lines.append)) == 18
    assert any("has no score of these passages" in line for line in lines)


def test_probabilities_are_told_from_logits_and_one_model_from_another(
    ask: Ask, fresh: Path
) -> None:
    """Most passages are irrelevant to all of them: the probability of each is 0."""

    class Judge(Teacher):
        def __init__(self, right: float, wrong: float = 0.0) -> None:
            super().__init__()
            self._right, self._wrong = right, wrong

        def score(self, query: str, passages: list[str]) -> list[float]:
            self.asked.append(query)
            return [self._right if (query, p) == relevant else self._wrong for p in passages]

    ask(Teacher())
    group = read_groups(fresh / "prep/train_mined.json", 3)[7]
    relevant = group.query, group.passages[0]
    assert len(ask(Judge(0.9))) == PROBES + 18
    assert len(ask(Judge(0.905, 0.001))) == PROBES
    assert len(ask(Judge(0.8))) == PROBES + 18
    assert len(ask(Judge(5.0, -9.0))) == PROBES + 18


def test_scores_of_another_teacher_are_not_used(ask: Ask, fresh: Path) -> None:
    ask(Teacher())
    before, paid = read_scores(scores_file(fresh)), scores_file(fresh).read_bytes()
    assert len(ask(Teacher(shift=0.5))) == PROBES + 18
    kept = scores_file(fresh).with_name(f"{scores_file(fresh).name}.before-1")
    assert kept.read_bytes() == paid
    after = read_scores(scores_file(fresh))
    assert after.keys() == before.keys()
    for question, known in before.items():
        assert after[question] == {name: score + 0.5 for name, score in known.items()}
    # A file of another checkpoint of the same name.
    head, *rows = scores_file(fresh).read_text().splitlines()
    changed = json.dumps(json.loads(head) | {"identity": "another"})
    scores_file(fresh).write_text("\n".join([changed, *rows, ""]))
    assert len(ask(Teacher(shift=0.5))) == 18
    assert kept.with_suffix(".before-2").is_file()


def test_a_missing_key_is_said_with_the_teachers_own_setting(fresh: Path) -> None:
    given = ["teacher=http://teacher:8000", "teacher_api_key_env=NOBODYS_KEY"]
    with pytest.raises(BadConfig, match="NOBODYS_KEY, which teacher_api_key_env names"):
        distillation.check_teacher(load("c.toml", ["finetune"], given).finetune)


def test_a_run_keeps_to_one_teacher(
    ask: Ask, fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where it has a name and a password, which nothing tells."""
    teacher = "http://me:se@cret@teacher:8000"
    line = ["finetune", "-c", "c.toml", "num_epochs=1", f"teacher={teacher}"]
    ask(Teacher(), f"teacher={teacher}")
    named = scores_file(fresh)
    assert len(ask(Teacher())) == PROBES  # the same file without them
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, Reporter, "on_save")
        assert main(line) == 130
    # Scores of other passages, which another run asks for, change nothing.
    ask(Teacher(), "sample_negatives=true")
    keep_to_scores(load("c.toml", ["finetune"], line[3:]).finetune)
    capsys.readouterr()
    ask(Teacher(shift=0.5))
    assert scores_file(fresh) == named
    assert main(line) == 1
    output = capsys.readouterr().err
    assert "http://teacher:8000 was another model then" in output
    assert "--force starts over" in output
    assert "cret" not in output
    assert main([*line, "-d"]) == 0
    assert "would ask http://teacher:8000 for its" in capsys.readouterr().out
    assert main(["report", "output/rerank"]) == 0
    page = Path("output/rerank/report.html").read_text("utf-8")
    assert "the margins of http://teacher:8000" in page
    assert "cret" not in page
    marks = [
        path for path in Path("output").rglob("*.json") if path.name in (STARTED_FILE, DONE_FILE)
    ]
    assert marks
    assert not [path for path in marks if "cret" in path.read_text("utf-8")]


def test_groups_without_scores_are_refused(fresh: Path) -> None:
    groups = read_groups(fresh / "prep/train_mined.json", 3)
    with pytest.raises(BadInput, match=r"of 14 question\(s\)"):
        scored(groups, {})


def test_the_loss_is_the_mean_square_of_the_margins_difference() -> None:
    logits = torch.tensor([[2.0], [1.0], [-1.0], [0.5], [0.0], [3.0]])
    batch = {
        "labels": torch.zeros(2, dtype=torch.int64),
        "teacher": torch.tensor([[5.0, 3.0, 1.0], [1.0, 4.0, 0.0]]),
    }
    model: Any = lambda **_: SimpleNamespace(logits=logits)  # noqa: E731
    loss, found = margin_mse(model, batch)
    # Margins of the student 1, 3, 0.5, -2.5; of the teacher 2, 4, -3, 1.
    assert loss.item() == pytest.approx((1 + 1 + 3.5**2 + 3.5**2) / 4)
    assert found.shape == (2, 3)


def test_a_student_has_nothing_to_learn_from_itself(
    fresh: Path, tiny_llama_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["finetune", "-c", "c.toml", "num_epochs=1"]
    assert main([*line, "teacher_api_key_env=KEY"]) == 1
    assert "and no teacher" in capsys.readouterr().err
    assert main([*line, f"teacher={fresh / 'nobody'}"]) == 1
    assert not (fresh / "output/rerank/stage2_finetune/started.json").exists()
    assert main([*line, f"teacher={tiny_llama_checkpoint}"]) == 0
    assert "teacher, questions: 18 of 18" in capsys.readouterr().err
    assert losses(fresh) == pytest.approx([0.0] * 3, abs=1e-4)


@pytest.mark.heavy
def test_a_stopped_run_goes_on_with_the_same_draws_and_margins(
    finished: Path, fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [f"teacher={finished / CONSOLIDATED}", "sample_negatives=true"]
    assert main(["finetune", "-c", "c.toml", *line]) == 0
    whole, curve = weights(fresh), losses(fresh)
    assert sum(curve[-3:]) < sum(curve[:3])
    for path in (fresh / "output", scores_file(fresh)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    stop_at_the_first_checkpoint(*line)
    capsys.readouterr()
    assert main(["finetune", "-c", "c.toml", *line]) == 0
    assert "teacher, questions" not in capsys.readouterr().err
    assert losses(fresh) == curve
    assert weights(fresh) == whole
    shutil.rmtree(fresh / "output")
    assert main(["finetune", "-c", "c.toml", line[0]]) == 0
    assert losses(fresh) != curve  # the first negatives, in every epoch
