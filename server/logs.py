"""Logging: readable lines or JSON lines on stderr; uvicorn's own lines join them.

One record is one line whatever is in it (but a traceback in readable lines), and carries the
request that it belongs to. What Python itself would print (warnings, exceptions that nobody
catches) is a record as well. Standard library only: what fails while the rest is imported is said
here, too.
"""

import faulthandler
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType, TracebackType

_log = logging.getLogger(__name__)

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Control characters, and what some readers take for the end of a line.
_LINE_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NO_REQUEST: Mapping[str, str] = MappingProxyType({})
# The variables and values that ask for JSON, as server.variables reads them; the first one counts.
_JSON_VARIABLES = {
    "NIM_JSONL_LOGGING": ("1", "true", "yes", "on"),
    "NIM_LOGGING_JSONL": ("1", "true", "yes", "on"),
    "LOG_FORMAT": ("json",),
}

# `request_id`, and `trace_id` where the request is traced.
current_request: ContextVar[Mapping[str, str]] = ContextVar("current_request", default=_NO_REQUEST)


class TextFormatter(logging.Formatter):
    """One readable line: time, level, logger, message, then the request's ids."""

    def __init__(self) -> None:
        super().__init__(_TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line without a traceback; nothing in a message can begin another one."""
        ids = "".join(f" {name}={value}" for name, value in current_request.get().items())
        return _LINE_BREAKS.sub(_escaped, super().formatMessage(record) + ids)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, the request's ids, and the
    traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **current_request.get(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        return _LINE_BREAKS.sub(_escaped, text)


def _escaped(found: "re.Match[str]") -> str:
    return f"\\u{ord(found[0]):04x}"


def wants_json_logs(environ: Mapping[str, str]) -> bool:
    """Whether the lines are to be JSON, told before the settings are: these may be refused."""
    for name, values in _JSON_VARIABLES.items():
        if value := environ.get(name, "").strip():
            return value.lower() in values
    return False


def report_startup_error(reason: str, *, as_json: bool, error: BaseException | None = None) -> None:
    """Say why the process does not start, whether or not logging is configured: one line on
    stderr, and in JSON the traceback of `error`."""
    if not as_json:
        sys.stderr.write(f"rerank-serve: {reason}\n")
        return
    seen = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord(__name__, logging.CRITICAL, "", 0, reason, (), seen)
    sys.stderr.write(JsonFormatter().format(record) + "\n")


def configure_logging(level: str, *, as_json: bool) -> None:
    """Set up the process's logging; to be called once, by whoever owns the process.

    A process that dies in native code writes where its threads were, which names no text.
    """
    faulthandler.enable()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # One that cannot be written would be told in plain lines.
    logging.raiseExceptions = False
    _capture_python_output()
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        # Two servers run here (the metrics port has its own); the lines of our own say enough.
        logger.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))
    # Requests are logged by `server.observability`, without query strings.
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False


def _capture_python_output() -> None:
    """Warnings, and exceptions that end the process or a thread, or that nobody can catch."""
    logging.captureWarnings(True)

    def uncaught(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        _log.critical("the process ends unexpectedly", exc_info=(kind, error, trace))

    def in_thread(seen: threading.ExceptHookArgs) -> None:
        if not isinstance(seen.exc_value, SystemExit):
            name = seen.thread.name if seen.thread else "unknown"
            error = seen.exc_value or seen.exc_type()
            _log.error(
                "the thread %s ends unexpectedly",
                name,
                exc_info=(seen.exc_type, error, seen.exc_traceback),
            )

    def unraisable(seen: "sys.UnraisableHookArgs") -> None:
        error = seen.exc_value or seen.exc_type()
        _log.error(
            "%s",
            seen.err_msg or "an exception that nobody can catch",
            exc_info=(seen.exc_type, error, seen.exc_traceback),
        )

    sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, in_thread, unraisable
