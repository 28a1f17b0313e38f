"""Measure the latency of health in a separate process, beside the one that sends."""

import http.client
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Self

from checks.hostile.sending import PATIENCE_S

_PAUSE_S = 0.005
# No copy of this process, which has threads and a server.
_SPAWNED = multiprocessing.get_context("spawn")


class Health:
    """Calls GET /v1/health/live in a loop while the context is open."""

    def __init__(self, port: int) -> None:
        self._ours, theirs = _SPAWNED.Pipe()
        self._process = _SPAWNED.Process(target=_watch, args=(port, theirs))

    def __enter__(self) -> Self:
        self._process.start()
        self.longest_s()  # wait until it has begun
        return self

    def longest_s(self) -> float:
        """The longest latency since the last call, in seconds; infinite without an answer."""
        self._ours.send(True)
        return float(self._ours.recv())

    def __exit__(self, *_: object) -> None:
        self._ours.send(False)
        self._process.join()
        self._ours.close()


def _answered_s(connection: http.client.HTTPConnection) -> float:
    """The latency of an answer; a connection that was closed meanwhile is reopened, once."""
    began = time.monotonic()
    for _ in range(2):
        try:
            connection.request("GET", "/v1/health/live")
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
        else:
            return time.monotonic() - began if answer.status == 200 else float("inf")
    return float("inf")


def _watch(port: int, pipe: Connection) -> None:
    """Answer each True in the pipe with the longest latency since the last one; False ends it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    longest = 0.0
    while True:
        longest = max(longest, _answered_s(connection))
        if pipe.poll(_PAUSE_S):
            if not pipe.recv():
                return
            pipe.send(longest)
            longest = 0.0
