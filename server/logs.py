"""Logging to stderr, as text lines or JSON lines, uvicorn's included.

A record is always one line, except for a traceback in text, and has the ids of its request.
Python's own output (warnings, uncaught exceptions) becomes records as well. Standard library only,
so that errors during the imports can be logged.
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
# Control characters, and characters that some readers take for a line break: escaped, so that a
# message cannot forge a line.
_LINE_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NO_REQUEST: Mapping[str, str] = MappingProxyType({})
# The variables and values that ask for JSON, as in server.variables; the first one set counts.
_JSON_VARIABLES = {
    "NIM_JSONL_LOGGING": ("1", "true", "yes", "on"),
    "NIM_LOGGING_JSONL": ("1", "true", "yes", "on"),
    "LOG_FORMAT": ("json",),
}

# `request_id`, and `trace_id` if the request is traced.
current_request: ContextVar[Mapping[str, str]] = ContextVar("current_request", default=_NO_REQUEST)


class TextFormatter(logging.Formatter):
    """A text line: time, level, logger, message, then the request's ids."""

    def __init__(self) -> None:
        super().__init__(_TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line without the traceback; line breaks in the message are escaped."""
        ids = "".join(f" {name}={value}" for name, value in current_request.get().items())
        return _LINE_BREAKS.sub(_escaped, super().formatMessage(record) + ids)


class JsonFormatter(logging.Formatter):
    """A JSON object per line: time (UTC), level, logger, message, the request's ids, and the
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
    """Whether JSON lines are requested; asked before the settings are read, which may fail."""
    for name, values in _JSON_VARIABLES.items():
        if value := environ.get(name, "").strip():
            return value.lower() in values
    return False


def report_startup_error(reason: str, *, as_json: bool, error: BaseException | None = None) -> None:
    """Report why the process does not start, in one line on stderr, whether or not logging is
    configured. JSON includes the traceback of `error`."""
    if not as_json:
        sys.stderr.write(f"rerank-serve: {reason}\n")
        return
    seen = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord(__name__, logging.CRITICAL, "", 0, reason, (), seen)
    sys.stderr.write(JsonFormatter().format(record) + "\n")


def configure_logging(level: str, *, as_json: bool) -> None:
    """Set up the process's logging; called once by the owner of the process.

    faulthandler writes the stacks of a process that dies in native code; they contain no request
    text.
    """
    faulthandler.enable()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Otherwise Python reports a record that cannot be written, in plain text.
    logging.raiseExceptions = False
    _capture_python_output()
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        # uvicorn's info lines are redundant, and the metrics port has a server of its own.
        logger.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))
    # Requests are logged by `server.observability`, without query strings.
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False


def _capture_python_output() -> None:
    """Log warnings, uncaught exceptions of the process and of threads, and unraisable ones."""
    logging.captureWarnings(True)

    def uncaught(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        _log.critical("the process ends unexpectedly", exc_info=(kind, error, trace))

    def in_thread(seen: threading.ExceptHookArgs) -> None:
        if not isinstance(seen.exc_value, SystemExit):
            name = seen.thread.name if seen.thread else "unknown"
            _log.error("the thread %s ends unexpectedly", name, exc_info=_raised(seen))

    def unraisable(seen: "sys.UnraisableHookArgs") -> None:
        _log.error("%s", seen.err_msg or "an unraisable exception", exc_info=_raised(seen))

    sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, in_thread, unraisable


def _raised(seen: "threading.ExceptHookArgs | sys.UnraisableHookArgs") -> BaseException:
    error: BaseException = seen.exc_value or seen.exc_type()
    return error.with_traceback(seen.exc_traceback)
