"""Every family of the table of targets, exported for every target of it, and served."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.pipeline import export
from runtime.opening import open_model
from tests.zoo.cases import CASES
from tests.zoo.folders import config
from tests.zoo.targets import CLASSES, ROWS, RUNGS, Row

# Where there is no GPU, the CPU proves its graph.
_ENGINES = {"cuda-fp16": "onnxruntime-cpu"}


@pytest.mark.heavy
@pytest.mark.parametrize("target", CLASSES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
def test_a_family_is_proven_for_a_target(row: Row, target: str, tmp_path: Path) -> None:
    (case,) = (case for case in CASES if case.name == row.case)
    checkpoint = case.build(tmp_path / "checkpoint")
    config(random_weights=True)(checkpoint)
    engine = _ENGINES.get(target)
    args = replace(case.args, target=target, engine=engine)
    manifest = export(str(checkpoint), tmp_path / "out", args)
    assert manifest.witness is not None
    assert manifest.witness.startswith(row.witness)
    rungs = json.loads((tmp_path / "out" / "parity.json").read_bytes())["rungs"]
    assert {name: rung["passed"] for name, rung in rungs.items()} == dict.fromkeys(RUNGS, True)
    with closing(open_model(tmp_path / "out", engine=engine)) as model:
        model.warm_up()


def test_rows_name_cases_that_agree() -> None:
    agreeing = {case.name for case in CASES if case.refused is None}
    assert {row.case for row in ROWS} <= agreeing
