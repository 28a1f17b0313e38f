"""The connections of the blocking client."""

import os

import httpx

from rerank_client.network import Network


class Connections:
    """Kept open between calls; threads share them, a forked process gets its own."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._pools: dict[int, httpx.HTTPTransport] = {}
        self._closed = False

    def require_open(self) -> None:
        """Raises RuntimeError when `close` was called."""
        if self._closed:
            raise RuntimeError("this client is closed; make another, or close it later")

    def pool(self) -> httpx.HTTPTransport:
        """That of this process. Raises RuntimeError as `require_open` does."""
        self.require_open()
        process = os.getpid()
        pool = self._pools.get(process)
        if pool is None:
            # What the parent opened closes itself here, and stays open there.
            self._pools = {own: it for own, it in self._pools.items() if own == process}
            pool = self._pools.setdefault(process, self._network.pool())
        return pool

    def close(self) -> None:
        """Those of other threads' calls that still run end with an error."""
        self._closed = True
        pool = self._pools.pop(os.getpid(), None)
        if pool is not None:
            pool.close()

    def give_back(self, response: httpx.Response) -> None:
        """An answer of the pool that was read, or is not wanted."""
        response.close()
        if self._closed:
            # It came after the pool was emptied.
            response.extensions["network_stream"].close()
