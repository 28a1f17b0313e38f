"""Triton's own client library, over HTTP and gRPC alike."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tests.server.surfaces.kserve_requests import RANK

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gevent speaks of its own affairs when it is imported
    import tritonclient.grpc as triton_grpc
    import tritonclient.http as triton_http
    from tritonclient.utils import InferenceServerException

__all__ = ["InferenceServerException", "triton_http"]

EMBED = "nvidia_llama_nemotron_embed_1b_v2"
QUERY, PASSAGES = "which one?", ["first", "second, a little longer", "ünï 𝔠ode"]
MAX_TOKENS = 200  # of the mock server, see conftest
HTTP, GRPC = "http", "grpc"


class Triton:
    """One of Triton's two clients, with the inputs that both build alike."""

    def __init__(self, port: int, transport: str) -> None:
        self.library = triton_http if transport == HTTP else triton_grpc
        self.client = self.library.InferenceServerClient(f"127.0.0.1:{port}")

    def texts(self, name: str, texts: list[str], *, flat: bool = False, **options: Any) -> Any:
        rows = [text.encode() for text in texts]
        array = np.array(rows if flat else [[row] for row in rows], dtype=object)
        tensor = self.library.InferInput(name, array.shape, "BYTES")
        tensor.set_data_from_numpy(array, **options)
        return tensor

    def rank(self, query: list[str], passages: list[str], **options: Any) -> Any:
        tensors = [self.texts("query", query), self.texts("passage", passages)]
        return self.client.infer(RANK, tensors, **options)

    def embed(self, texts: list[str], **options: Any) -> Any:
        return self.client.infer(EMBED, [self.texts("text", texts)], **options)

    def plain(self, answer: Any) -> Any:
        """An answer of either library as plain JSON."""
        if self.library is triton_http:
            return answer
        from google.protobuf.json_format import MessageToDict

        return MessageToDict(answer, preserving_proto_field_name=True)


@contextmanager
def over_grpc(port: int) -> Iterator[Triton]:
    one = Triton(port, GRPC)
    yield one
    one.client.close()
