"""Log lines: one a record, with the request's id, and nothing that a caller wrote."""

import json
import logging
import re
import socket
from typing import Any

import pytest

from server.logs import JsonFormatter, TextFormatter, current_request, wants_json_logs
from server.settings import SettingsError, read_settings
from server.variables import VARIABLES
from tests.server.conftest import Start
from tests.server.test_lifecycle import UVICORN

FORGED = "\n2026-01-01 00:00:00,000 CRITICAL server: all is lost\r\x1b[31m\x85\u2028"


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_no_message_begins_a_second_line(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("room", logging.INFO, "", 0, "said %s", (FORGED,), None)
    line = formatter.format(record)
    assert len(line.splitlines()) == 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", line)
    if isinstance(formatter, JsonFormatter):
        assert json.loads(line)["message"] == f"said {FORGED}"


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
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


JSON = {"ENABLE_MOCK_INFERENCE": "1", "NIM_JSONL_LOGGING": "1"}
# Ends with what Python prints by itself.
_PRINTING = """
import os, sys, threading, warnings
from server.logs import configure_logging
configure_logging("INFO", as_json=True)

class Unraisable:
    def __del__(self):
        raise ValueError("one\\ntwo")

Unraisable()
warnings.warn("three\\nfour")
thread = threading.Thread(target=lambda: 1 // 0)
thread.start()
thread.join()
raise ValueError("five\\nsix")
"""


@pytest.mark.parametrize("name", [row.name for row in VARIABLES if row.field == "json_logs"])
@pytest.mark.parametrize(
    "value", ["1", "true", "ON", "0", "off", "json", "JSON", "pretty", " ", ""]
)
def test_the_request_for_json_is_read_before_the_settings_as_they_read_it(
    name: str, value: str
) -> None:
    try:
        wanted = read_settings({"ENABLE_MOCK_INFERENCE": "1", name: value}).json_logs
    except SettingsError:
        wanted = False
    assert wants_json_logs({name: value}) == wanted


def test_of_two_requests_for_json_the_same_one_counts() -> None:
    given = {"ENABLE_MOCK_INFERENCE": "1", "NIM_JSONL_LOGGING": "0", "LOG_FORMAT": "json"}
    assert wants_json_logs(given) == read_settings(given).json_logs


@pytest.mark.parametrize(
    ("given", "arguments", "code", "reason"),
    [
        ({"NIM_REQUIRE_AUTH": "true"}, (), 2, "NIM_REQUIRE_AUTH: found "),
        ({"NIM_REQUIRE_AUTH": "true"}, UVICORN, 1, "NIM_REQUIRE_AUTH: found "),
        ({}, ("-c", "from server.cli import main; main(['--unknown'])"), 2, "--unknown"),
        ({"ENABLE_MOCK_INFERENCE": "", "NIM_CUSTOM_MODEL": "/nowhere"}, (), 2, "/nowhere"),
        ({"NIM_HTTP_API_PORT": "{taken}"}, (), 2, "NIM_HTTP_API_PORT: found port"),
        ({"NIM_TRITON_METRICS_PORT": "{taken}"}, (), 1, "NIM_TRITON_METRICS_PORT: found port"),
        ({"NIM_TRITON_GRPC_PORT": "{taken}"}, (), 1, "NIM_TRITON_GRPC_PORT: found port"),
        ({}, ("-c", _PRINTING), 1, "five\nsix"),
    ],
)
def test_a_start_that_is_refused_logs_json(
    start: Start, given: dict[str, str], arguments: tuple[str, ...], code: int, reason: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        filled = {name: value.replace("{taken}", taken) for name, value in given.items()}
        server = start({**JSON, "PYTHONWARNINGS": "default", **filled}, *arguments)
        assert server.ends() == code
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert reason in f"{lines[-1]['message']} {lines[-1].get('traceback')}"
    assert lines[-1]["level"] == "CRITICAL"
    if arguments == ("-c", _PRINTING):
        assert len(lines) == 4
