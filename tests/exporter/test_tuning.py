"""rerank-export tune: real engines, and what is kept of which speeds."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter import tuning
from exporter.cli import main
from exporter.parity_texts import Group
from exporter.tuning import tune, variants
from runtime.batch import BatchLimits
from runtime.model import Model
from runtime.profile import load_target_profile, target_profile_names
from runtime.tuning import TUNING_FILE, read_tuning

Speed = Callable[[BatchLimits], float]


@pytest.fixture
def artifact(rank_artifact: Path, tmp_path: Path) -> Path:
    return shutil.copytree(rank_artifact, tmp_path / "artifact")


class Clock:
    """Stands for the module `time`: time passes only where something is measured."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def fake_speeds(monkeypatch: pytest.MonkeyPatch) -> Callable[[Speed], None]:
    """Lets a function of the shape stand for the engine, which takes a second to measure."""

    def install(speed: Speed) -> None:
        shape = [BatchLimits(1, 1, 0.0)]
        clock = Clock()
        real = Model.set_limits

        def bound(model: Model, limits: BatchLimits) -> None:
            shape[0] = limits
            real(model, limits)

        def measured(model: Model, group: Group) -> float:
            clock.now += 1.0
            return speed(shape[0])

        monkeypatch.setattr(Model, "set_limits", bound)
        monkeypatch.setattr(tuning, "tokens_per_s", measured)
        monkeypatch.setattr(tuning, "time", clock)

    return install


@pytest.mark.parametrize("kind", ["rank_artifact", "embed_artifact"])
def test_on_the_command_line(
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tuning, "_FEWEST_ROUNDS", 1)  # a busy machine must not fail the test
    copy = shutil.copytree(request.getfixturevalue(kind), tmp_path / "copy")
    assert main(["tune", str(copy), "--seconds", "1"]) == 0
    output = capsys.readouterr()
    assert output.out.count("\n        1024 ") + output.out.startswith("        1024 ") >= 3
    assert output.out.count("← kept") == 1
    stored = read_tuning(copy)
    assert (stored is not None) == ("tuning.json: " in output.out)
    assert (stored is None) == ("nothing to store" in output.out)


def test_a_shape_that_is_faster_is_stored_and_shown(
    artifact: Path, fake_speeds: Callable[[Speed], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake_speeds(lambda limits: 130.0 if limits.token_budget == 256 else 100.0)
    outcome = tune(artifact, 60.0)
    stored = read_tuning(artifact)
    assert outcome.changed
    assert stored is not None
    assert (stored.token_budget, stored.padding_waste) == (256, 0.1)
    assert (stored.tokens_per_s, stored.default_tokens_per_s) == (130.0, 100.0)
    assert main(["inspect", str(artifact)]) == 0
    assert (
        "\ntuned            256 tokens a call, 0.1 of them padding, for " in capsys.readouterr().out
    )


def test_noise_stores_nothing_and_forgets_what_was_stored(
    artifact: Path, fake_speeds: Callable[[Speed], None]
) -> None:
    (artifact / TUNING_FILE).write_text("{}")
    calls = iter(range(10**9))
    fake_speeds(lambda _: 100.0 + 7 * (next(calls) % 5))
    assert not tune(artifact, 60.0).changed
    assert read_tuning(artifact) is None


def test_without_time_a_few_rounds_are_measured_all_the_same(
    artifact: Path, fake_speeds: Callable[[Speed], None]
) -> None:
    fake_speeds(lambda limits: 100.0 if limits.token_budget > 600 else 200.0)
    outcome = tune(artifact, 0.0)
    assert outcome.best.limits.token_budget == 512
    assert len(outcome.trials[0].tokens_per_s) == tuning._FEWEST_ROUNDS


def test_fewer_concurrent_calls_are_tried_and_stored(
    artifact: Path,
    fake_speeds: Callable[[Speed], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("runtime.engines.placement.usable_nodes", lambda: ((0, 1, 2, 3),))
    fake_speeds(lambda limits: 130.0 if limits.lanes == 2 else 100.0)
    assert main(["tune", str(artifact), "--seconds", "60"]) == 0
    stored = read_tuning(artifact)
    assert stored is not None
    assert stored.lanes == 2
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:-1]] == [
        *("4" * 6),
        "1",
        "2",
    ]
    assert main(["inspect", str(artifact)]) == 0
    assert "concurrent calls: 2, for " in capsys.readouterr().out


@pytest.mark.parametrize("name", target_profile_names())
def test_variants_stay_within_the_target(name: str) -> None:
    target = load_target_profile(name)
    own = BatchLimits(target.max_rows, target.token_budget, target.padding_waste)
    found = variants(own, 4)
    assert found[0] == own
    assert len(set(found)) == len(found)
    assert all(one.token_budget <= own.token_budget for one in found)
    assert all(one.padding_waste <= own.padding_waste for one in found)
    assert {one.lanes for one in found} == {None, 1, 2}
    assert {one.lanes for one in variants(own, 1)} == {None}
