"""How `make test-clients` ends when some clients were skipped."""

import pytest

from checks.here import NOT_HERE
from clients import run
from clients.run import Client, Result

TRIED, MISSING = Client("openai"), Client("nemo_retriever")
PASSED = Result(TRIED, passed=3)
SKIPPED = Result(MISSING, skipped="found no Python 3.12")


def test_a_client_without_its_python_is_not_passed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "find_python", lambda _: None)
    wanted = f"^{NOT_HERE}1 of 1 clients skipped: nemo_retriever: found no Python 3.12$"
    with pytest.raises(SystemExit, match=wanted):
        run.main(["nemo_retriever"])
    assert capsys.readouterr().out.endswith("0 passed, 0 failed, 1 skipped\n")


def test_the_others_are_counted() -> None:
    assert run._ended([PASSED]) == 0
    with pytest.raises(SystemExit, match=f"^{NOT_HERE}1 of 2 clients skipped: nemo_retriever: "):
        run._ended([PASSED, SKIPPED])


def test_a_failure_counts_beside_what_was_skipped() -> None:
    assert run._ended([PASSED, SKIPPED, Result(TRIED, failure="it broke")]) == 1
