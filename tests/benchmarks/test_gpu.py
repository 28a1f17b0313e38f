"""`make bench-gpu` without a GPU, and its arithmetic."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import bench
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.bench import Measured, Sizes, _candidates, report
from benchmarks.gpu.candidates import MAX_ROWS
from benchmarks.gpu.loads import make_loads
from benchmarks.models import flops
from checks.gpu.models import CONFIGS, Exported
from runtime.profile import load_target_profile
from runtime.shapes import bucket


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 1
    assert capsys.readouterr().out.startswith("no GPU found")


def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("checks.gpu.bundled.find_spec", lambda name: name != "torch" or None)
    assert main([]) == 1
    assert capsys.readouterr().out.startswith("found no torch in ")


@pytest.mark.heavy
def test_a_tiny_run_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "_WARM_RUNS", 1)
    options = ["--device", "cpu", "--model", "tiny", "--quick", "--out", str(tmp_path)]
    assert main(options) == 0
    measured = json.loads((tmp_path / "results.json").read_bytes())["measured"]
    # Two of PyTorch and eight of ours, on five loads.
    assert len(measured) == 50
    mine = [f"ORT-CPU fp16, 256 tokens{more}" for more in (", graphs to 256", ", a call ahead")]
    assert {one["candidate"] for one in measured} >= {*mine}
    assert [one["failure"] for one in measured if one["failure"]] == []
    assert max(one["max_delta"] for one in measured) < 0.05
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == capsys.readouterr().out


def test_loads_are_what_their_names_say() -> None:
    mixed, even, long, few, single = make_loads(9, 512)
    assert [len(load.rows) for load in (mixed, even, long, few, single)] == [9, 9, 9, 8, 1]
    assert {len(row) for load in (few, single) for row in load.rows} == {128}
    assert {len(row) for row in even.rows} == {256}
    assert {len(row) for row in long.rows} == {512}
    assert sorted(len(row) for row in mixed.rows)[0] == 30
    assert max(int(row.token_ids.max()) for row in mixed.rows) < 512


def test_graphs_are_measured_on_calls_as_large_as_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = Exported(tmp_path, "fp16")
    monkeypatch.setattr(bench, "export", lambda *_: graph)
    monkeypatch.setattr(bench, "adapted", lambda _, **_forms: graph)
    sizes = Sizes(batches=(4,), budgets=(256, 1024))
    names = [one.name for one in _candidates("tiny", "cpu", sizes, tmp_path) if one.ours]
    assert names[:8] == [
        f"ORT-CPU fp16, {budget} tokens{more}"
        for budget in sizes.budgets
        for more in (
            "",
            f", graphs to {budget}",
            ", a call ahead",
            ", graphs to 2048, a call ahead",  # as the target has it
        )
    ]
    assert names[8:-1:2] == [
        f"ORT-CPU fp16, {form}, 256 tokens" for form in ("packed", "lean", "lean and packed")
    ]
    # Calls with one or few passages of the smallest loads are buckets within any budget.
    *_, few, single = make_loads(100, 512)
    for load in (few, single):
        shape = (len(load.rows), max(map(len, load.rows)))
        assert bucket(*shape, MAX_ROWS) == shape
        assert load.tokens <= min(Sizes().budgets)


def test_calls_have_the_rows_of_the_targets() -> None:
    targets = [load_target_profile(name) for name in ("cuda-fp16", "tensorrt-fp16")]
    assert {one.max_rows for one in targets} == {MAX_ROWS}


def test_the_report_compares_with_the_best_pytorch_and_the_ceiling() -> None:
    (load, *_) = make_loads(5, 512)
    config = CONFIGS["tiny"]
    operations = sum(flops(config, len(row)) for row in load.rows)
    found = [
        Measured("PyTorch slow", "fp16", ours=False, load=load.name, seconds=[2.0]),
        Measured("PyTorch fast", "bf16", ours=False, load=load.name, seconds=[1.0, 1.0]),
        Measured("ours", "fp16", ours=True, load=load.name, seconds=[0.5], max_delta=0.01),
        Measured("absent", "fp16", ours=True, load=load.name, failure="no libnvinfer"),
    ]
    ceilings = {"fp16": 4 * operations, "bf16": operations}
    text = report({"device": "a card"}, [load], found, ceilings, config)
    assert "| ours | 10 | 2 | 500 | 500 | 50 % | 0.01 |" in text
    assert "| PyTorch fast | 5 | 1 | 1000 | 1000 | 100 % |  |" in text
    assert "| absent | no libnvinfer |" in text
