"""Operations of the models, and the rows of the table."""

from pathlib import Path

import pytest

from benchmarks.models import flops, matrix_shapes
from benchmarks.roster import BY_NAME, CANDIDATES, REFERENCE

BERT = {
    "model_type": "bert",
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_attention_heads": 12,
    "num_hidden_layers": 6,
}
LLAMA = {
    "model_type": "llama_bidirec",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "num_hidden_layers": 16,
}


def test_a_token_of_the_1b_shape_costs_two_operations_a_weight() -> None:
    weights = 16 * (2048 * 64 * (32 + 8 + 8 + 32) + 3 * 2048 * 8192)
    assert flops(LLAMA, 1) == pytest.approx(2 * weights, rel=1e-3)


def test_attention_grows_with_the_square_of_the_length() -> None:
    products = 2 * sum(k * n * times for k, n, times in matrix_shapes(BERT))
    assert flops(BERT, 100) == 6 * (100 * products + 4 * 384 * 100**2)


def test_names_are_unique_and_the_reference_is_among_them() -> None:
    assert len(BY_NAME) == len(CANDIDATES)
    assert BY_NAME[REFERENCE].precision == "fp32"


def test_every_peer_has_pins_and_every_candidate_a_module() -> None:
    room = Path(__file__).resolve().parents[2] / "benchmarks"
    for candidate in CANDIDATES:
        assert (room / "candidates" / f"{candidate.module}.py").is_file()
        assert candidate.ours == (candidate.peer is None)
        if candidate.peer is not None:
            assert "==" in (room / "requirements" / f"{candidate.peer}.txt").read_text()
