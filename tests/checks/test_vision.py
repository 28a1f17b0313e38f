"""The shape of check-vl is the model's, and its parts work on the tiny one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from checks import vision
from checks.tiny_vision import main
from checks.vision import Run, open_once, shape, table
from exporter.checkpoint import load_model, read_checkpoint
from exporter.report import read_report
from tests import tiny_vision


def test_the_shape_has_the_model_s_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, tuple[int, ...]] = {}
    monkeypatch.setattr(torch, "randn", lambda shape, **_: torch.empty(shape, device="meta"))

    def size(name: str, noise: torch.Tensor) -> torch.Tensor:
        drawn[name] = tuple(noise.shape)
        return noise

    monkeypatch.setattr(tiny_vision, "_scaled", size)
    tiny_vision.weights(shape())
    assert sum(torch.Size(one).numel() for one in drawn.values()) == 1_678_256_576


def test_the_checkpoint_that_make_serve_writes_can_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "vl"
    for _ in range(2):
        assert main([str(folder)]) == 0
    load_model(read_checkpoint(str(folder), strict=True))


def test_what_a_run_measured_is_a_table(vision_artifact: Path) -> None:
    run = Run(1.0, 2, read_report(vision_artifact), open_once(vision_artifact))
    lines = table({"fp32": run}).splitlines()
    assert len(lines) == 6
    assert all(line.startswith("fp32: ") for line in lines)


def test_the_tokenizer_gets_the_tokens_of_images(tmp_path: Path) -> None:
    config: dict[str, Any] = tiny_vision.reranker_config(
        img_context_token_id=None, vocab_size=10300, llm_config={"vocab_size": 10300}
    )
    vision.write_checkpoint(tmp_path / "checkpoint", config, Path("embedded/rank"))
    load_model(read_checkpoint(str(tmp_path / "checkpoint")))
