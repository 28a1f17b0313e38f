"""check-optimum without optimum: transformers answers, and our own graph replaces the other."""

from pathlib import Path

import msgspec
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from checks.optimum import MAX_TOKENS, Reference, compare
from exporter.parity_texts import parity_groups
from runtime.manifest import read_manifest
from tests.conftest import Exported


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


@pytest.mark.heavy
def test_agreement_passes_and_any_difference_fails(
    tiny_bert_checkpoint: Path, exported: Exported
) -> None:
    artifact = exported(tiny_bert_checkpoint)
    manifest = read_manifest(artifact)
    reference = answers(tiny_bert_checkpoint)
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
