"""check-1b on a shape of a few thousand parameters: the same steps, a real server."""

from pathlib import Path

from checks.one_billion import SHAPE, measure, table

TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 512,
}


def test_a_tiny_shape_is_exported_proven_and_served(
    tiny_llama_checkpoint: Path, tmp_path: Path
) -> None:
    figures = measure(SHAPE | TINY, tiny_llama_checkpoint, tmp_path / "work")
    assert len(figures.logits) == 3
    assert figures.logits == sorted(figures.logits, reverse=True)
    assert all(rung.passed for rung in figures.parity.rungs.values())
    assert figures.weights_bytes == 4 * sum(
        # embeddings and head; projections; feed-forward; norms
        [512 * 64 + 64, 64 * (64 + 32 + 32 + 64), 3 * 64 * 128, 3 * 64]
    )
    assert figures.half.precision == "fp16"
    assert all(rung.passed for rung in figures.half.rungs.values())
    assert "peak memory of the export" in table(figures)
    assert "max |Δ logit| in float16" in table(figures)


def test_the_shape_has_the_models_parameters() -> None:
    layer = 2048 * 64 * (32 + 8 + 8 + 32) + 3 * 2048 * 8192 + 2 * 2048
    assert SHAPE["num_hidden_layers"] * layer + 128256 * 2048 + 2 * 2048 == 1_235_816_448
