"""The connections of the blocking client."""

import os

import httpcore

from rerank_client.network import Network
from rerank_client.streams import Backend

# Idle connections to keep; more concurrent callers than that open new ones.
MAX_IDLE = 32


class Connection:
    """A connection for one exchange at a time; it opens, or reopens, on demand."""

    def __init__(self, network: Network) -> None:
        self.backend = Backend()
        self.http = httpcore.ConnectionPool(
            network.certificates, network.proxy, max_connections=1, network_backend=self.backend
        )


class Closable:
    """What a client uses until it is `closed`."""

    closed = False

    def require_open(self) -> None:
        """Raises RuntimeError when the client was closed."""
        if self.closed:
            raise RuntimeError("this client is closed; make another, or close it later")


class Connections(Closable):
    """Persistent connections; threads share them, a forked process gets its own."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._process = os.getpid()
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()

    def take(self) -> Connection:
        """Take an idle connection; give it back. Raises RuntimeError like `require_open`."""
        self._drop_parents_connections()
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = Connection(self._network)
        self._busy.add(connection)
        if self.closed:  # checked only now, so that `close` sees the connection
            self.give_back(connection, complete=False)
            self.require_open()
        return connection

    def give_back(self, connection: Connection, *, complete: bool) -> None:
        """Return a connection. `complete`: the exchange was read to its end."""
        keep = complete and len(self._idle) < MAX_IDLE
        if keep:
            self._idle.append(connection)
        self._busy.discard(connection)
        if self.closed or not keep:
            connection.backend.close()

    def close(self) -> None:
        """Close all. Calls still running in other threads fail."""
        self.closed = True
        self._drop_parents_connections()
        for connection in list(self._busy):
            connection.backend.end()  # the call closes it
        while self._idle:
            self._idle.pop().backend.close()

    def _drop_parents_connections(self) -> None:
        """Close the parent process's connections here; they stay open in the parent."""
        if self._process != os.getpid():
            self._process, self._idle, self._busy = os.getpid(), [], set()
