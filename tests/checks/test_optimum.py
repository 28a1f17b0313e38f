"""check-optimum without optimum: transformers answers, and our own graph stands for the other."""

import tomllib
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from checks.optimum import (
    MAX_TOKENS,
    SHAPE,
    Reference,
    compare,
    describe,
    time_call,
    write_checkpoint,
)
from exporter.parity_texts import parity_groups
from exporter.pipeline import Wish, export
from runtime.engines import open_engine

ROOT = Path(__file__).resolve().parents[2]
TINY = SHAPE | {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "vocab_size": 2000,
}


@torch.inference_mode()
def answers(checkpoint: Path) -> Reference:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    rows = [
        tokenizer(
            group.query,
            passage,
            truncation="only_second",
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        for group in parity_groups(MAX_TOKENS)
        for passage in group.passages
    ]
    return Reference(
        versions={},
        token_ids=[row["input_ids"][0].tolist() for row in rows],
        type_ids=[row["token_type_ids"][0].tolist() for row in rows],
        logits=[float(model(**row).logits) for row in rows],
    )


def test_agreement_passes_and_any_difference_fails(tmp_path: Path) -> None:
    checkpoint, artifact = tmp_path / "checkpoint", tmp_path / "artifact"
    write_checkpoint(checkpoint, TINY)
    manifest = export(str(checkpoint), artifact, Wish())
    reference = answers(checkpoint)
    groups = parity_groups(MAX_TOKENS)
    figures = compare(artifact, manifest, artifact, groups, reference)
    assert figures.passed
    assert figures.pairs == len(reference.logits) > 40
    assert figures.between == 0.0

    moved = [*reference.logits[:-1], reference.logits[-1] + 2e-4]
    other = msgspec.structs.replace(reference, logits=moved)
    figures = compare(artifact, manifest, artifact, groups, other)
    assert not figures.passed
    assert figures.ours == pytest.approx(2e-4, rel=0.1)

    types = [[1] * len(reference.type_ids[0]), *reference.type_ids[1:]]
    other = msgspec.structs.replace(reference, type_ids=types)
    figures = compare(artifact, manifest, artifact, groups, other)
    assert not figures.passed
    assert figures.other_tokens == 1

    with closing(open_engine("onnxruntime-cpu", artifact)) as engine:
        assert min(time_call(engine, engine, 2, 9)) > 0
    assert describe(artifact).startswith("opset 23, ")


def test_the_extra_is_what_its_environment_gets() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = (ROOT / "checks" / "requirements" / "optimum.txt").read_text().splitlines()
    assert set(extras["optional-dependencies"]["optimum"]) <= set(pins)
    assert all("==" in pin for pin in pins if pin and not pin.startswith("#"))
