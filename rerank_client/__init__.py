"""Ask a reranking server (POST /rerank, or a NIM's POST /v1/ranking) for the order of documents.

`RerankClient` and `AsyncRerankClient` are thin shells around one flow (`rerank_client.flow`) that
decides what is sent, what is worth another attempt and how long to wait before it.
"""

from rerank_client.async_client import AsyncRerankClient
from rerank_client.client import RerankClient
from rerank_client.errors import RerankError
from rerank_client.result import RerankResult
from rerank_client.surface import Surface, nim

__all__ = [
    "AsyncRerankClient",
    "RerankClient",
    "RerankError",
    "RerankResult",
    "Surface",
    "nim",
]
