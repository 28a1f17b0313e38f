"""The texts that int8 is calibrated on are read as a server reads them."""

import itertools
from pathlib import Path

import pytest

from exporter.library_texts import calibration_pairs
from exporter.quantization.step import calibration_rows
from runtime.manifest import TOKENIZER_FILE, unproven_manifest
from tests.zoo import vocabularies


@pytest.mark.parametrize("profile", ["qwen3-reranker", "mxbai-rerank-v2"])
def test_prompt_and_parts_are_the_profiles(profile: str, tmp_path: Path) -> None:
    words = vocabularies.qwen()
    (tmp_path / TOKENIZER_FILE).parent.mkdir()
    words.save(str(tmp_path / TOKENIZER_FILE))
    manifest = unproven_manifest(
        profile,
        target="cpu-int8",
        version="draft",
        precision="int8",
        pad_id=0,
        inputs=["input_ids", "attention_mask"],
        outputs=["logits"],
    )
    assert manifest.prompt is not None
    before, between, after = manifest.prompt.replace("{passage}", "{query}").split("{query}")

    def read(query: str, passage: str) -> list[int]:
        parts = [before + query, between + passage, after]
        if not manifest.tokenize_apart:
            parts = ["".join(parts)]
        return [*itertools.chain(*(words.encode(part).ids for part in parts))]

    wanted = [read(*pair) for pair in calibration_pairs(manifest.max_tokens)]
    found = [row["input_ids"][0].tolist() for row in calibration_rows(tmp_path, manifest)]
    assert found == wanted
