"""Triton's client library, over HTTP and gRPC: rank, embed, configuration, statistics."""

import numpy as np
import tritonclient.grpc
import tritonclient.http

from clients.check import TRITON_EMBEDDER, TRITON_RANKER, Server, assert_says
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG


def _clients(server: Server) -> list:
    """The library and a client of each transport."""
    address = server.url.removeprefix("http://")
    # Its HTTP client gives up after 60 s of network silence by default.
    return [
        (tritonclient.http, tritonclient.http.InferenceServerClient(address, network_timeout=300)),
        (tritonclient.grpc, tritonclient.grpc.InferenceServerClient(server.grpc)),
    ]


def _column(library, name: str, texts: list[str], **form: bool):
    array = np.array([[text.encode()] for text in texts], dtype=object)
    tensor = library.InferInput(name, array.shape, "BYTES")
    tensor.set_data_from_numpy(array, **form)
    return tensor


def ranks(server: Server) -> None:
    """infer on the ranker, 60 passages"""
    passages = HUNDRED[:60]
    wanted = server.logits(passages)
    for library, client in _clients(server):
        tensors = [_column(library, "query", [QUERY]), _column(library, "passage", passages)]
        found = client.infer(TRITON_RANKER, tensors, parameters={"truncate": "END"})
        logits = found.as_numpy("logit").ravel()
        assert np.abs(logits - wanted).max() < 1e-3, library.__name__
        assert found.as_numpy("index").ravel().tolist() == list(range(60))


def compressed(server: Server) -> None:
    """infer with bodies in gzip and deflate; an answer in gzip is asked for, and may be plain"""
    wanted = server.logits(FIVE)
    _, client = _clients(server)[0]
    library = tritonclient.http
    for form in ("gzip", "deflate"):
        for raw in (True, False):
            columns = (("query", [QUERY]), ("passage", FIVE))
            tensors = [_column(library, *column, binary_data=raw) for column in columns]
            found = client.infer(
                TRITON_RANKER,
                tensors,
                request_compression_algorithm=form,
                response_compression_algorithm=form,
            )
            assert np.abs(found.as_numpy("logit").ravel() - wanted).max() < 1e-3, form


def embeds(server: Server) -> None:
    """infer on the embedder, 100 texts, input_type passage, dimensions 16"""
    for library, client in _clients(server):
        found = client.infer(
            TRITON_EMBEDDER,
            [_column(library, "text", HUNDRED)],
            parameters={"input_type": "passage", "dimensions": 16},
        )
        server.assert_embedded(HUNDRED, found.as_numpy("embeddings").tolist(), "passage", 16)


def tells(server: Server) -> None:
    """live, ready, metadata, config, statistics, repository"""
    for library, client in _clients(server):
        assert client.is_server_live(), library.__name__
        assert client.is_server_ready(), library.__name__
        assert client.is_model_ready(TRITON_RANKER), library.__name__
        client.get_server_metadata()
        client.get_model_metadata(TRITON_EMBEDDER)
        client.get_model_config(TRITON_EMBEDDER)
        client.get_inference_statistics(TRITON_RANKER)
        client.get_model_repository_index()


def errors(server: Server) -> None:
    """errors come as InferenceServerException with words"""
    for library, client in _clients(server):
        tensors = [
            _column(library, "query", [QUERY]),
            _column(library, "passage", [*FIVE, TOO_LONG]),
        ]
        assert_says(
            lambda client=client, tensors=tensors: client.infer(TRITON_RANKER, tensors),
            "InferenceServerException",
            "exceeds maximum allowed token size",
        )
