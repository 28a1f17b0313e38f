"""The verdict of make check-network; what it sees is shown by its own control, at every run."""

import pytest

from checks.network.__main__ import Row, table
from checks.network.inside import Finding
from checks.network.subjects import CONTROL

CALL = Finding(["events.example"], ["events.example:443"], ["home/.cache/id"])


def test_a_quiet_process_passes() -> None:
    assert Row("server", Finding(), 1.0).passed


@pytest.mark.parametrize(
    "found",
    [
        Finding(queries=["events.example"]),
        Finding(connections=["203.0.113.1:443"]),
        Finding(files=["home/.cache/id"]),
        Finding(failure="it ended with 1"),
    ],
)
def test_one_trace_or_a_failure_is_enough(found: Finding) -> None:
    assert not Row("server", found, 1.0).passed


def test_a_control_that_is_not_seen_fails() -> None:
    assert Row(CONTROL, CALL, 1.0).passed
    for blind in (Finding(), Finding(CALL.queries, CALL.connections), Finding(files=CALL.files)):
        assert not Row(CONTROL, blind, 1.0).passed


def test_the_table_names_what_was_found() -> None:
    lines = table([Row("server", CALL, 21.4), Row("exporter", Finding(), 3.0)])
    assert lines[1].split() == ["server", "1", "1", "1", "21", "failed"]
    assert lines[2:5] == [
        "  queries: events.example",
        "  connections: events.example:443",
        "  files: home/.cache/id",
    ]
    assert lines[5].split() == ["exporter", "0", "0", "0", "3", "ok"]
