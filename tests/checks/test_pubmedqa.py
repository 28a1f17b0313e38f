"""How `make check-pubmedqa` ends."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from checks import pubmedqa
from recipe.evaluation.pairs import Pair
from recipe.evaluation.significance import Gain


def gain(difference: float, width: float, p: float) -> Gain:
    return Gain(
        difference=difference,
        low=difference - width,
        high=difference + width,
        p=p,
        corrected_p=p,
        wins=40,
        losses=60,
        ties=0,
        queries=100,
        needed=1000,
    )


@pytest.mark.parametrize(
    ("found", "code"),
    [(gain(-0.0001, 0.02, 0.9), 0), (gain(-0.1, 0.02, 0.001), 3)],
)
def test_only_a_worsening_by_more_than_chance_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: Gain,
    code: int,
) -> None:
    pair = Pair("base", "finetuned", "NDCG@10", {"NDCG@10": found}, 0)
    columns = {"base": SimpleNamespace(NDCG={"NDCG@10": 0.5})}
    monkeypatch.setattr(pubmedqa, "rerank", lambda _: code)
    monkeypatch.setattr(pubmedqa, "read_results", lambda _: columns)
    monkeypatch.setattr(pubmedqa, "open_session", lambda _: SimpleNamespace(measured=dict))
    monkeypatch.setattr(pubmedqa, "known_pairs", lambda _: [pair])
    (tmp_path / "pairs.jsonl").write_text("")
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "pairs.jsonl"), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        pubmedqa.main()
    assert end.value.code == code  # an empty text would be false, and the exit status 1
    assert f"{found.difference:+.4f} (95 % interval" in capsys.readouterr().out
