"""Logging: readable lines or JSON lines on stderr; uvicorn's own lines join them.

One record is one line whatever is in it (but a traceback in readable lines), and carries the
request that it belongs to.
"""

import faulthandler
import logging
import re
import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

import msgspec

from server.settings import Settings

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Control characters, and what some readers take for the end of a line.
_FORGING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NO_REQUEST: Mapping[str, str] = MappingProxyType({})

# `request_id`, and `trace_id` where the request is traced.
current_request: ContextVar[Mapping[str, str]] = ContextVar("current_request", default=_NO_REQUEST)


class Lines(logging.Formatter):
    """One readable line: time, level, logger, message, then the request's ids."""

    def __init__(self) -> None:
        super().__init__(_TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line without a traceback; nothing in a message can begin another one."""
        ids = "".join(f" {name}={value}" for name, value in current_request.get().items())
        return _FORGING.sub(_escaped, super().formatMessage(record) + ids)


class JsonLines(logging.Formatter):
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
        return _FORGING.sub(_escaped, msgspec.json.encode(line).decode())


def _escaped(found: "re.Match[str]") -> str:
    return f"\\u{ord(found[0]):04x}"


def configure_logging(settings: Settings) -> None:
    """Set up the process's logging; to be called once, by whoever owns the process.

    A process that dies in native code writes where its threads were, which names no text.
    """
    faulthandler.enable()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.json_logs else Lines())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        # Two servers run here (the metrics port has its own); the lines of our own say enough.
        logger.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[settings.log_level]))
    # Requests are logged by `server.observe`, without query strings.
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
