"""The end of a server under load: what runs is answered, by the deadline with 503."""

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

from tests.server.conftest import Server, Start, StartGated
from tests.server.gate import GATED_TOKENS
from tests.server.surfaces.kserve_requests import RANK, grpc_ready
from tests.waiting import PATIENCE_S

PASSAGES = [{"text": letter * GATED_TOKENS} for letter in "ab"]
BODY = {"query": {"text": "q"}, "passages": PASSAGES}
MOCK = {"ENABLE_MOCK_INFERENCE": "1"}


def head(length: int) -> bytes:
    return f"POST /v1/ranking HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)


def begin_a_request(server: Server, connection: socket.socket) -> bytes:
    """Send a request but for the rest of its body, which is returned."""
    body = json.dumps(BODY).encode()
    connection.sendall(head(len(body)) + body[:10])
    server.get("/v1/health/live")  # the server has read it by now
    return body[10:]


def test_at_the_deadline_the_rest_is_answered_with_503(start_gated: StartGated) -> None:
    one_row_a_call = {"NIM_TRITON_MAX_BATCH_SIZE": "1", "RERANK_MAX_PASSAGES": "2"}
    server = start_gated({"RERANK_DRAIN_TIMEOUT_S": "1", **one_row_a_call}).ready()
    with ThreadPoolExecutor(1) as pool, connect(server) as connection:
        computed = pool.submit(server.rank, BODY)
        server.gate.wait_for_call()
        # A second request is still being sent when the time is up.
        begin_a_request(server, connection)
        server.signal(signal.SIGTERM)
        assert connection.recv(100).startswith(b"HTTP/1.1 503")
        assert computed.result().status_code == 503
        assert int(computed.result().headers["retry-after"]) >= 1
    server.gate.open()
    assert server.ends() == 0
    assert "Traceback" not in server.log


# Its notice never ends.
_NOTICE = (
    "import sys, server.shutdown as shutdown; from server.cli import main; "
    "shutdown._NOT_READY_NOTICE_S = 3600; sys.exit(main())"
)


def test_readiness_flips_and_requests_are_taken_for_a_while(start: Start) -> None:
    server = start(MOCK, "-c", _NOTICE).ready()
    server.signal(signal.SIGTERM)
    server.wait_for("/v1/health/ready", 503)
    assert server.get("/v1/health/live").status_code == 200
    model = server.get(f"/v2/models/{RANK}/ready")
    assert model.status_code == 503
    assert set(model.json()) == {"error"}
    assert not grpc_ready(server.grpc_port)
    assert server.rank(BODY).status_code == 200
