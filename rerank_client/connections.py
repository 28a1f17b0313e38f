"""The connections of the blocking client."""

import os

import httpcore

from rerank_client.network import Network
from rerank_client.streams import Backend

# Of more callers at once, the others open connections anew.
MOST_IDLE = 32


class Connection:
    """One, for one exchange at a time; the first opens it, and another where it has ended."""

    def __init__(self, network: Network) -> None:
        self.backend = Backend()
        self.http = httpcore.ConnectionPool(
            network.certificates, network.proxy, max_connections=1, network_backend=self.backend
        )


class Connections:
    """Kept open between calls; threads share them, a forked process gets its own."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._process = os.getpid()
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self.closed = False

    def require_open(self) -> None:
        """Raises RuntimeError when `close` was called."""
        if self.closed:
            raise RuntimeError("this client is closed; make another, or close it later")

    def take(self) -> Connection:
        """One that nobody uses; to be given back. Raises RuntimeError as `require_open` does."""
        self._leave_parents()
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = Connection(self._network)
        self._busy.add(connection)
        try:
            self.require_open()  # after that, `close` finds it
        except RuntimeError:
            self.give_back(connection, whole=False)
            raise
        return connection

    def give_back(self, connection: Connection, *, whole: bool) -> None:
        """`whole`: nothing of the exchange is still to come."""
        keep = whole and len(self._idle) < MOST_IDLE
        if keep:
            self._idle.append(connection)
        self._busy.discard(connection)
        if self.closed or not keep:
            connection.backend.close()

    def close(self) -> None:
        """Calls that still run in other threads end with an error."""
        self.closed = True
        self._leave_parents()
        for connection in list(self._busy):
            connection.backend.end()  # the call closes it
        while self._idle:
            self._idle.pop().backend.close()

    def _leave_parents(self) -> None:
        """What a parent process opened closes itself here, and stays open there."""
        if self._process != os.getpid():
            self._process, self._idle, self._busy = os.getpid(), [], set()
