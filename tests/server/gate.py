"""The gate before an engine, which the test holds shut: see `gated`."""

import os
import select

from tests.waiting import PATIENCE_S

# Rows of so many tokens wait; those of warm-up are shorter.
GATED_TOKENS = 100


class Gate:
    """The engine has the ends `begun` and `through`, the test has the others."""

    def __init__(self) -> None:
        self._told, self.begun = os.pipe()
        self.through, self._letting = os.pipe()
        self._open = {self._told, self.begun, self.through, self._letting}

    def give_ends_away(self) -> None:
        """Another process has inherited those of the engine."""
        self._close(self.begun, self.through)

    def wait_for_call(self) -> None:
        """Until one more call waits here."""
        found, _, _ = select.select([self._told], [], [], PATIENCE_S)
        assert found, "no engine call in time"
        assert os.read(self._told, 1), "the server has ended"

    def let_through(self, calls: int = 1) -> None:
        """So many calls, whether they wait already or not."""
        os.write(self._letting, bytes(calls))

    def open(self) -> None:
        """Let all calls through, for good."""
        self._close(self._letting)

    def close(self) -> None:
        """Nobody needs it any more."""
        self._close(*self._open)

    def _close(self, *ends: int) -> None:
        for end in self._open & set(ends):
            os.close(end)
        self._open -= set(ends)
