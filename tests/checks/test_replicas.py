"""The formula of docs/operations.md, and the check's failure when it does not hold."""

from pathlib import Path

import pytest

from checks import replicas
from checks.here import NOT_HERE
from checks.replicas import replicas_needed


@pytest.mark.parametrize(
    ("requests_per_s", "tokens", "tokens_per_s", "wanted"),
    [
        (1, 7000, 10_000, 1),  # busy for exactly 0.7 of the time
        (1, 7001, 10_000, 2),
        (10, 40 * 178, 10_970, 10),
        (0.01, 1, 10_000, 1),
    ],
)
def test_as_many_as_are_busy_for_seven_tenths(
    requests_per_s: float, tokens: int, tokens_per_s: int, wanted: int
) -> None:
    assert replicas_needed(requests_per_s, tokens, tokens_per_s) == wanted


def test_a_failure_counts_on_two_cores_that_nobody_else_uses() -> None:
    assert replicas._failed(0.04, siblings=False) == 1
    with pytest.raises(SystemExit, match=f"^{NOT_HERE}other processes took 40%"):
        replicas._failed(0.4, siblings=False)
    with pytest.raises(SystemExit, match=f"^{NOT_HERE}found that the two cores are threads of one"):
        replicas._failed(0.04, siblings=True)


@pytest.mark.parametrize(
    ("listed", "siblings"),
    [(("0\n", "1\n"), False), (("0-1\n", "0-1\n"), True), (("0,4\n", "1,5\n"), False), ((), False)],
)
def test_threads_of_one_core(
    listed: tuple[str, ...], siblings: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "CORES", tmp_path)
    for core, text in enumerate(listed):
        folder = tmp_path / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text)
    assert replicas._siblings([0, 1]) == siblings
