"""Triton: a remote engine, computed by a running Triton Inference Server.

The model there is written by `rerank-export triton`. It takes token ids as well as the texts of
NVIDIA's NIMs, or is the graph alone. Triton's HTTP client needs one connection per thread; its gRPC
client does not.
"""

import importlib
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from runtime.batch import INPUT_NAMES
from runtime.engines import AnyShape, Arrays, EngineSetup, Outputs
from runtime.errors import EngineError, EngineUnavailable, EngineUnreachable
from runtime.shapes import PLACES_INPUT

_log = logging.getLogger(__name__)

# The NIM's older name of the model, as Triton spells it.
MODEL_NAME = "llama_3_2_nv_rerankqa_1b_v2"
# Outputs that the model has for texts only, not for token ids.
TEXT_OUTPUTS = ("index", "logit", "token_count")
_TIMEOUT_S, _CONNECT_S = 300.0, 10.0
_WANTED = "http://host:8003, https://…, grpc://host:8004 or grpcs://…"


class TritonEngine(AnyShape):
    """One model of one Triton server; `max_rows` is the max_batch_size of its configuration."""

    name = "triton"
    device = "remote"
    lanes = 1

    def __init__(self, connect: Callable[[], "_Connection"]) -> None:
        self._connect = connect
        self._local = threading.local()
        self._unreachable = False
        self.version = self._connection().version()
        config = self._connection().config()
        self.max_rows = max(1, int(config.get("max_batch_size", 0)))
        names = [one["name"] for one in config["input"]]
        # Not the places of packed graphs, which have no axis of rows: the model makes them itself.
        self.input_names = [name for name in INPUT_NAMES if name in {*names} - {PLACES_INPUT}]
        outputs = [one["name"] for one in config["output"]]
        self.output_names = [name for name in outputs if name not in TEXT_OUTPUTS]

    def run(self, inputs: Arrays) -> Outputs:
        """All outputs of the model for token ids, by name. Raises EngineUnreachable or
        EngineError."""
        try:
            found = self._connection().infer(inputs, self.output_names)
        except Exception as error:  # the client's own classes, gevent's, gRPC's
            # The next call starts with a new connection.
            self._local.connection = None
            if _is_unreachable(error):
                # Warn once: the watchdog polls it until it is reachable.
                level = logging.DEBUG if self._unreachable else logging.WARNING
                _log.log(level, "Triton cannot be reached: %s", _first_line(error))
                self._unreachable = True
                raise EngineUnreachable from error
            raise EngineError(f"Triton failed: {_first_line(error)}") from error
        self._unreachable = False
        return found

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            with suppress(Exception):
                connection.client.close()
        self._local.connection = None

    def _connection(self) -> "_Connection":
        if getattr(self._local, "connection", None) is None:
            self._local.connection = self._connect()
        connection: _Connection = self._local.connection
        return connection


class _Connection:
    """One client of Triton's library. `library` is its HTTP or gRPC module; these differ only in
    configurations and timeouts."""

    def __init__(self, library: Any, address: str, *, tls: bool, grpc: bool) -> None:
        self._library = library
        self._grpc = grpc
        self._as_json = {"as_json": True, "client_timeout": _CONNECT_S} if grpc else {}
        self._within = {"client_timeout": _TIMEOUT_S} if grpc else {}
        times = {} if grpc else {"network_timeout": _TIMEOUT_S, "connection_timeout": _CONNECT_S}
        self.client = library.InferenceServerClient(address, ssl=tls, **times)

    def version(self) -> str:
        """Triton's version."""
        return str(self.client.get_server_metadata(**self._as_json)["version"])

    def config(self) -> dict[str, Any]:
        """The model's configuration as JSON."""
        reply = self.client.get_model_config(MODEL_NAME, **self._as_json)
        return dict(reply["config"] if self._grpc else reply)

    def infer(self, inputs: Arrays, outputs: list[str]) -> Outputs:
        """Run the model and return the named outputs."""
        sent = []
        for name, values in inputs.items():
            tensor = self._library.InferInput(name, list(values.shape), "INT64")
            tensor.set_data_from_numpy(values.astype(np.int64, copy=False))
            sent.append(tensor)
        wanted = [self._library.InferRequestedOutput(name) for name in outputs]
        reply = self.client.infer(MODEL_NAME, sent, outputs=wanted, **self._within)
        found = {name: reply.as_numpy(name) for name in outputs}
        if missing := [name for name, values in found.items() if values is None]:
            raise EngineError(f"found no output {', '.join(missing)} in its answer")
        return found


def open_engine(
    name: str,
    place: str | Path,
    setup: EngineSetup,  # noqa: ARG001
) -> TritonEngine:
    """Connect to the Triton server at `place`, a URL.

    Raises EngineUnavailable when the client library, the server, or the model in its repository is
    missing.
    """
    scheme, _, host = str(place).partition("://")
    if scheme not in ("http", "https", "grpc", "grpcs") or not host:
        raise EngineUnavailable(f"found no address of a Triton, wanted {_WANTED}")
    grpc = scheme.startswith("grpc")
    try:
        library = importlib.import_module(f"tritonclient.{'grpc' if grpc else 'http'}")
    except ImportError as error:
        raise EngineUnavailable(
            f"engine {name} needs the package tritonclient; install the extra triton"
        ) from error
    secure = scheme.endswith("s")
    try:
        return TritonEngine(partial(_Connection, library, host.rstrip("/"), tls=secure, grpc=grpc))
    except Exception as error:  # whatever the client's library raises
        raise EngineUnavailable(
            f"Triton at {place} does not offer the model {MODEL_NAME} ({_first_line(error)}); "
            "start it on a repository that `rerank-export triton` wrote"
        ) from error


def _is_unreachable(error: Exception) -> bool:
    """Whether the server is unreachable: the gRPC client has a status, the HTTP client raises an
    OSError."""
    status = getattr(error, "status", lambda: None)()
    return isinstance(error, OSError) or status == "StatusCode.UNAVAILABLE"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
