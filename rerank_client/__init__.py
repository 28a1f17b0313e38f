"""Client of a reranking server (POST /rerank, or a NIM's POST /v1/ranking).

`RerankClient` and `AsyncRerankClient` are thin wrappers around one flow (`rerank_client.flow`),
which decides what is sent, what is retried and how long to wait before a retry.
"""

from rerank_client.async_client import AsyncRerankClient
from rerank_client.client import RerankClient
from rerank_client.errors import RerankError
from rerank_client.passage import Passage
from rerank_client.result import RerankResult
from rerank_client.surface import Surface, nim

__all__ = [
    "AsyncRerankClient",
    "Passage",
    "RerankClient",
    "RerankError",
    "RerankResult",
    "Surface",
    "nim",
]
