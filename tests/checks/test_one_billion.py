"""The shape of check-1b is the model's; `make check-1b` covers the rest."""

from checks.one_billion import SHAPE


def test_the_shape_has_the_models_parameters() -> None:
    layer = 2048 * 64 * (32 + 8 + 8 + 32) + 3 * 2048 * 8192 + 2 * 2048
    assert SHAPE["num_hidden_layers"] * layer + 128256 * 2048 + 2 * 2048 == 1_235_816_448
