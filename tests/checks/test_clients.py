"""How `make test-clients` ends when some clients were skipped, and when it says that one erred."""

import re
from collections.abc import Callable

import pytest

from checks.here import NOT_HERE
from clients import run
from clients.pages import Page, assert_embedded, assert_ranked
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


PAGES = [Page("a", "", -1.0, [0.5, 0.5]), Page("b", "", 30.0, [1.0, 0.0])]


def test_pages_that_are_answered_as_by_the_runtime() -> None:
    assert_ranked(PAGES, [1, 0], [30.0002, -1.000009])
    assert_embedded(PAGES, [[0.5, 0.500009], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("check", "told"),
    [
        (lambda: assert_ranked(PAGES, [1, 1], [30.0, 30.0]), "wanted each of 2 once"),
        (lambda: assert_ranked(PAGES, [0, 1], [-1.0, 30.0]), "another order"),
        (lambda: assert_ranked(PAGES, [0, 1], [30.0, -1.0]), "page 0: found 30.0"),
        (lambda: assert_ranked(PAGES, [1, 0], [30.0, -1.00002]), "page 0: found -1.00002"),
        (lambda: assert_ranked(PAGES, [1, 0], [30.0, float("nan")]), "page 0: found nan"),
        (lambda: assert_embedded(PAGES, [[0.5, 0.50002], [1.0, 0.0]]), "page 0: found 0.50002"),
    ],
)
def test_pages_that_are_not(check: Callable[[], None], told: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(told)):
        check()
