"""Log lines: one a record, with the request's id, and nothing that a caller wrote."""

import json
import logging
import re
import socket
from typing import Any

import pytest

from server.logs import JsonLines, Lines, current_request

FORGED = "\n2026-01-01 00:00:00,000 CRITICAL server: all is lost\r\x1b[31m\x85\u2028"


@pytest.mark.parametrize("formatter", [Lines(), JsonLines()])
def test_no_message_begins_a_second_line(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("room", logging.INFO, "", 0, "said %s", (FORGED,), None)
    line = formatter.format(record)
    assert len(line.splitlines()) == 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", line)
    if isinstance(formatter, JsonLines):
        assert json.loads(line)["message"] == f"said {FORGED}"


@pytest.mark.parametrize("formatter", [Lines(), JsonLines()])
def test_a_line_names_its_request(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("room", logging.INFO, "", 0, "said", (), None)
    before = current_request.set({"request_id": "r-1", "trace_id": "t-1"})
    line = formatter.format(record)
    current_request.reset(before)
    assert "r-1" in line
    assert "t-1" in line
    assert "r-1" not in formatter.format(record)


@pytest.mark.parametrize("style", ["pretty", "json"])
def test_callers_words_are_in_no_line(start: Any, style: str) -> None:
    server = start({"ENABLE_MOCK_INFERENCE": "1", "LOG_FORMAT": style, "LOG_LEVEL": "DEBUG"})
    server.ready()
    body = {"query": {"text": f"hush{FORGED}"}, "passages": [{"text": "hush"}, {"text": " "}]}
    headers = {"x-request-id": "hush\tno word", "authorization": "Bearer hush", "hush": "hush"}
    refused = server.rank(body, headers=headers)
    assert refused.status_code == 400
    made_up = refused.headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", made_up)
    server.rank({**body, "passages": [{"text": "hush"}]}, headers={"x-request-id": "word.1"})
    server.http.post("/hush?key=hush", json={"model": "hush"})
    server.rank({**body, "model": "hush\nhush"})
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"HUSH /hush HTTP/1.1\r\nHost: hush\r\nConnection: close\r\n\r\n")
        raw.recv(1000)
    assert server.stop() == 0
    assert "hush" not in server.log.lower()
    assert "all is lost" not in server.log
    assert made_up in server.log
    assert "word.1" in server.log
    if style == "json":
        lines = [json.loads(line) for line in server.log.splitlines()]
        assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, lines))
