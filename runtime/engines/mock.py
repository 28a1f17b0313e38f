"""The mock engine: deterministic scores without weights, for wiring and client tests only."""

import zlib
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers

from runtime.engines import AnyShape, Arrays, EngineSetup, Outputs
from runtime.postprocess import unit

_SCALE = 10.0
DIMENSIONS = 64


class MockEngine(AnyShape):
    """Scores and embeds a row by a checksum of its token ids: equal rows get equal outputs,
    everywhere."""

    name = "mock"
    version = ""
    device = "cpu"
    lanes = 1

    def __init__(self) -> None:
        self.input_names = ["input_ids", "attention_mask"]
        self.output_names = ["logits", "embeddings"]

    def run(self, inputs: Arrays) -> Outputs:
        """`logits` float32 [batch, 1] in [-10, 10) and `embeddings` float32 [batch, 64] of
        length 1; padding does not count."""
        rows = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        checksums = [zlib.crc32(ids[mask == 1].astype("<i8").tobytes()) for ids, mask in rows]
        shares = np.asarray(checksums, dtype=np.float64) / 2**32
        drawn = [np.random.default_rng(seed).standard_normal(DIMENSIONS) for seed in checksums]
        return {
            "logits": (_SCALE * (2.0 * shares - 1.0)).astype(np.float32)[:, None],
            "embeddings": unit(np.asarray(drawn, dtype=np.float32)),
        }

    def close(self) -> None:
        """Nothing to give back."""


def open_engine(name: str, model_file: Path, setup: EngineSetup) -> MockEngine:  # noqa: ARG001
    """The mock needs no file."""
    return MockEngine()


def byte_tokenizer() -> tokenizers.Tokenizer:
    """One token per UTF-8 byte: a real tokenizer that needs no file."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer
