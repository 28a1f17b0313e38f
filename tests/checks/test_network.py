"""The verdict of make check-network; its own control proves what it detects, in every run."""

import os
import socket
import struct
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest

from checks.network.__main__ import Row, table
from checks.network.inside import Finding
from checks.network.places import files, places
from checks.network.subjects import CONTROL
from checks.network.wire import drop_loopback

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
    left = ["home/left", "tmp/left", *(f"{place}/left" for place in places())]
    assert Row(CONTROL, Finding(CALL.queries, CALL.connections, left), 1.0).passed
    for blind in (
        Finding(),
        Finding(CALL.queries, CALL.connections),
        Finding(CALL.queries, CALL.connections, left[:-1]),
        Finding(CALL.queries, [], left),
        Finding(files=left),
    ):
        assert not Row(CONTROL, blind, 1.0).passed


def test_the_watch_receives_only_what_is_for_elsewhere() -> None:
    targets = ["203.0.113.1", "127.0.0.1", "126.255.255.255", "127.9.9.9", "128.0.0.1"]
    targets += ["2001:db8::1", "::1", "::2", "1::1", "0:0:1::1", "0:0:0:0:1::1", "192.0.2.53"]
    heard, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with closing(heard), closing(sender):
        drop_loopback(heard)
        heard.setblocking(False)
        passed = []
        for target in targets:
            sender.send(_header(target))
            try:
                heard.recv(100)
                passed.append(target)
            except BlockingIOError:
                pass
    assert passed == [one for one in targets if not ip_address(one).is_loopback]


def _header(target: str) -> bytes:
    """An IP header from loopback."""
    address = ip_address(target)
    if address.version == 4:
        return struct.pack("!B15x", 0x45) + address.packed
    return struct.pack("!B23x", 0x60) + address.packed


def test_a_hidden_file_far_below_is_found(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (below / ".id").touch()
    os.mkfifo(tmp_path / "queue")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert files(tmp_path) == [below / ".id", tmp_path / "dangling", tmp_path / "queue"]


def test_folders_for_temporary_files_are_watched() -> None:
    assert {Path(name).resolve() for name in ("/tmp", "/dev/shm")} <= set(places())


def test_the_table_names_what_was_found() -> None:
    lines = table([Row("server", CALL, 21.4), Row("exporter", Finding(), 3.0)])
    assert lines[1].split() == ["server", "1", "1", "1", "21", "failed"]
    assert lines[2:5] == [
        "  queries: events.example",
        "  connections: events.example:443",
        "  files: home/.cache/id",
    ]
    assert lines[5].split() == ["exporter", "0", "0", "0", "3", "ok"]
