"""What most likely explains that two readings of a folder part."""

import pytest

from exporter.answers import Tokens
from exporter.diagnosis import diagnose_tokens


@pytest.mark.parametrize(
    ("ours", "theirs", "named"),
    [
        ([1, 5, 6, 2], [1, 5, 6, 2], "model_input_names"),
        ([1, 5, 6, 7, 8, 2], [1, 5, 6, 2], "model_max_length"),
        ([1, 5, 6, 2], [1, 9, 9, 5, 6, 2], "a prompt in"),
        ([1, 5, 6, 2], [1, 5, 7, 2], "do_lower_case"),
        ([1, 5, 6, 2], [1, 5, 7, 8, 2], "the normalizer in tokenizer.json"),
    ],
)
def test_the_likeliest_file_is_named(ours: list[int], theirs: list[int], named: str) -> None:
    assert named in diagnose_tokens(ours, Tokens(theirs, None))
