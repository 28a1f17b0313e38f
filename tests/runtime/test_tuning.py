"""A measured shape of batches is used on the machine that measured it, and nowhere else."""

import json
import logging
import shutil
from pathlib import Path

import msgspec
import pytest

from runtime import machine
from runtime.model_info import ModelInfo
from runtime.opening import open_model
from runtime.tuning import TUNING_FILE, Tuning, conditions, write_tuning


@pytest.fixture
def artifact(rank_artifact: Path, tmp_path: Path) -> Path:
    return shutil.copytree(rank_artifact, tmp_path / "artifact")


def opened_info(directory: Path) -> ModelInfo:
    model = open_model(directory)
    model.warm_up()
    model.close()
    return model.info


def tuning(directory: Path) -> Tuning:
    return Tuning(
        conditions=conditions(opened_info(directory)),
        token_budget=128,
        padding_waste=0.05,
        tokens_per_s=2.0,
        default_tokens_per_s=1.0,
    )


def test_it_bounds_the_batches_and_no_hash_minds(artifact: Path) -> None:
    assert opened_info(artifact).token_budget == 1024
    write_tuning(artifact, tuning(artifact))
    assert opened_info(artifact).token_budget == 128
    assert sorted(p.name for p in artifact.iterdir() if p.name.startswith("tuning")) == [
        TUNING_FILE
    ]


def test_another_machine_logs_why(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_tuning(artifact, tuning(artifact))
    here = machine.describe()
    monkeypatch.setattr(machine, "describe", lambda: here | {"cores": "many"})
    with caplog.at_level(logging.WARNING):
        assert opened_info(artifact).token_budget == 1024
    assert f"measured with cores '{here['cores']}', this is 'many'" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_budget": 4096}, "it allows 4096 tokens"),
        ({"padding_waste": 0.5}, "0.5 of padding"),
        ({"schema": 2}, "schema 2"),
        ({"conditions": {}}, "artifact None"),
        ({"token_budget": 0}, "cannot be used"),
        ({"lanes": 0}, "cannot be used"),
        ({"surprise": 1}, "cannot be used"),
    ],
)
def test_what_does_not_fit_is_ignored_with_its_reason(
    artifact: Path, caplog: pytest.LogCaptureFixture, change: dict[str, object], message: str
) -> None:
    content = msgspec.to_builtins(tuning(artifact)) | change
    (artifact / TUNING_FILE).write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        assert opened_info(artifact).token_budget == 1024
    assert message in caplog.text


def test_fewer_rows_a_call_stay_fewer(artifact: Path) -> None:
    write_tuning(artifact, tuning(artifact))
    model = open_model(artifact, max_rows=2)
    model.close()
    assert (model.info.max_rows, model.info.token_budget) == (2, 128)


def test_a_file_from_before_concurrent_calls_were_tuned_is_still_used(artifact: Path) -> None:
    content = msgspec.to_builtins(tuning(artifact))
    del content["lanes"]
    (artifact / TUNING_FILE).write_text(json.dumps(content))
    assert opened_info(artifact).token_budget == 128
