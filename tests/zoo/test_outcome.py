"""When the zoo complains: other numbers, another refusal."""

import pytest

from tests.zoo.case import Case
from tests.zoo.outcome import Outcome, complaint

_AGREES, _DIFFERS = Outcome("agrees"), Outcome("differs", "|Δ| = 0.5")
_REFUSED = Outcome("refused", "found adapter_config.json in the folder")


@pytest.mark.parametrize(
    ("refused", "found", "complains"),
    [
        (None, _AGREES, False),
        (None, _DIFFERS, True),
        (None, _REFUSED, True),
        ("adapter_config.json", _REFUSED, False),
        ("modules.json", _REFUSED, True),
        ("adapter_config.json", _AGREES, True),
    ],
)
def test_complaints(refused: str | None, found: Outcome, complains: bool) -> None:
    case = Case("BERT", "fp32", (), refused=refused)
    assert (complaint(case, found) is not None) == complains
