"""Measure the latency of health in a separate process: `python -m
checks.hostile.watch PORT`.

It calls GET /v1/health/live in a loop. For each line on its input it writes the longest latency in
seconds since the line before.
"""

import http.client
import select
import subprocess
import sys
import time
from types import TracebackType

from checks.hostile.sending import PATIENCE_S

_PAUSE_S = 0.005


class Health:
    """Measures while the context is open."""

    def __init__(self, port: int) -> None:
        self._port = port

    def __enter__(self) -> "Health":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "checks.hostile.watch", str(self._port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.longest_s()  # wait until it has begun
        return self

    def longest_s(self) -> float:
        """The longest latency since the last call, in seconds; infinite without an answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate("")
        self._process.wait()


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


def main() -> int:
    """0 when the input ends."""
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=PATIENCE_S)
    longest = 0.0
    while True:
        longest = max(longest, _answered_s(connection))
        if select.select([sys.stdin], [], [], _PAUSE_S)[0]:
            if not sys.stdin.readline():
                return 0
            print(longest, flush=True)
            longest = 0.0


if __name__ == "__main__":
    sys.exit(main())
