"""Bodies in gzip and deflate: taken on every route, bounded by what they become."""

import asyncio
import gzip
import json
import socket
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from server import connection
from server.connection import BodyBudget
from server.errors import InvalidRequest
from server.inflating import Inflater
from server.time_slices import SLICE_BYTES, TimeSlices
from tests.server.conftest import BODY_LIMIT_BYTES, Server
from tests.server.in_process import InProcess
from tests.server.surfaces.kserve_requests import INFER, binary, body, elements
from tests.waiting import PATIENCE_S

JSON = {"content-type": "application/json"}
RANKING = {"query": {"text": "q"}, "passages": [{"text": "a"}, {"text": "ü" * 50}]}
# A route of every surface that reads a body, and a body that it takes.
ROUTES: dict[str, Any] = {
    "/v1/ranking": RANKING,
    "/rerank": {"query": "q", "texts": ["a", "b"]},
    "/v1/rerank": {"model": "any", "query": "q", "documents": ["a", "b"]},
    "/v2/rerank": {"model": "any", "query": "q", "documents": ["a", "b"]},
    "/score": {"text_1": "q", "text_2": ["a", "b"]},
    "/v1/embeddings": {"input": ["a", "b"], "input_type": "query"},
    "/embed": {"inputs": ["a", "b"], "prompt_name": "query"},
    "/tokenize": {"inputs": ["a", "b"]},
    INFER: body(),
    "/v2/repository/index": {},
}


def bare_deflate(raw: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(raw) + compressor.flush()


def members(raw: bytes) -> bytes:
    half = len(raw) // 2
    return b"".join(map(gzip.compress, (raw[:half], b"", raw[half:])))


STREAMS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "members of gzip": ("gzip", members),
    "stored": ("gzip", lambda raw: gzip.compress(raw, 0)),
    "deflate": ("deflate", zlib.compress),
    "deflate without zlib's frame": ("deflate", bare_deflate),
}
FORMS = STREAMS | {
    "its old name": ("x-gzip", gzip.compress),
    "another case, and an identity": ("identity, GZip", gzip.compress),
    "not compressed": ("identity", bytes),
}


def sent(client: httpx.Client, path: str, raw: bytes, *codings: str) -> httpx.Response:
    headers = [*JSON.items(), *(("content-encoding", coding) for coding in codings)]
    return client.post(path, content=raw, headers=headers)


def outcome(answer: httpx.Response) -> object:
    """What must be the same for the same request: all but ids."""
    if answer.headers["content-type"] != "application/json":
        return answer.content
    found = answer.json()
    return {k: v for k, v in found.items() if k != "id"} if isinstance(found, dict) else found


@pytest.mark.parametrize("path", list(ROUTES))
@pytest.mark.parametrize("form", list(FORMS))
def test_a_compressed_body_is_answered_as_a_plain_one(
    client: httpx.Client, path: str, form: str
) -> None:
    coding, compress = FORMS[form]
    raw = json.dumps(ROUTES[path]).encode()
    plain = sent(client, path, raw)
    answer = sent(client, path, compress(raw), coding)
    assert answer.status_code == plain.status_code == 200, answer.text
    assert outcome(answer) == outcome(plain)


@pytest.mark.parametrize("form", list(FORMS))
def test_tensors_behind_the_json_are_found_where_the_header_says(
    client: httpx.Client, form: str
) -> None:
    """Inference-Header-Content-Length counts the JSON's bytes before it was compressed."""
    coding, compress = FORMS[form]
    head, raw = binary(elements(b"a", b"b"))
    headers = {"content-encoding": coding, "inference-header-content-length": str(len(head))}
    answer = client.post(INFER, content=compress(head + raw), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["shape"] == [2, 1]


@pytest.mark.parametrize("path", list(ROUTES))
@pytest.mark.parametrize(
    "codings",
    [
        ("br",),
        ("zstd",),
        ("compress",),
        ("gzip, gzip",),
        ("gzip", "deflate"),
        ("gzip;q=1",),
        ("*",),
    ],
)
def test_another_coding_is_refused_with_those_that_are_taken(
    client: httpx.Client, path: str, codings: tuple[str, ...]
) -> None:
    answer = sent(client, path, gzip.compress(json.dumps(ROUTES[path]).encode()), *codings)
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "gzip, deflate"
    assert "Content-Encoding" in answer.text


RAW = json.dumps(RANKING).encode()
DAMAGED = {
    "plain JSON": ("gzip", RAW),
    "nothing": ("gzip", b""),
    "nothing of deflate": ("deflate", b""),
    "another coding's": ("gzip", zlib.compress(RAW)),
    "gzip as deflate": ("deflate", gzip.compress(RAW)),
    "cut off": ("gzip", gzip.compress(RAW)[:-1]),
    "cut off in the middle": ("deflate", zlib.compress(RAW)[:40]),
    "bare and cut off": ("deflate", bare_deflate(RAW)[:-1]),
    "a second member cut off": ("gzip", gzip.compress(RAW) + gzip.compress(b" ")[:-3]),
    "bytes behind gzip": ("gzip", gzip.compress(RAW) + b"\0"),
    "bytes behind deflate": ("deflate", zlib.compress(RAW) + b"\n"),
    "two of deflate": ("deflate", zlib.compress(RAW) + zlib.compress(b" ")),
    "a wrong checksum": ("gzip", gzip.compress(RAW)[:-8] + b"\0\0\0\0" + gzip.compress(RAW)[-4:]),
    "a wrong length": ("gzip", gzip.compress(RAW)[:-4] + b"\0\0\0\1"),
}


@pytest.mark.parametrize("what", list(DAMAGED))
def test_a_damaged_stream_is_a_bad_request(client: httpx.Client, what: str) -> None:
    coding, raw = DAMAGED[what]
    answer = sent(client, "/v1/ranking", raw, coding)
    assert answer.status_code == 400, answer.text
    assert answer.json()["type"] == "request_validation_error"
    assert "Content-Encoding: found a " in answer.json()["message"]
    assert sent(client, "/tokenize", raw, coding).json()["error_type"] == "Validation"
    assert set(sent(client, INFER, raw, coding).json()) == {"error"}


@pytest.mark.parametrize("form", list(FORMS))
def test_the_limit_is_one_of_inflated_bytes(client: httpx.Client, form: str) -> None:
    coding, compress = FORMS[form]
    exact = RAW.ljust(BODY_LIMIT_BYTES)
    if form not in ("not compressed", "stored"):
        assert sent(client, "/v1/ranking", compress(exact), coding).status_code == 200
        assert len(compress(exact + b" ")) < BODY_LIMIT_BYTES
    answer = sent(client, "/v1/ranking", compress(exact + b" "), coding)
    assert answer.status_code == 413
    assert str(BODY_LIMIT_BYTES) in answer.text


def test_the_limit_is_one_of_compressed_bytes_too(client: httpx.Client) -> None:
    """A stream may hold next to nothing: here, empty members before the text."""
    empty = gzip.compress(b"")
    raw = empty * (BODY_LIMIT_BYTES // len(empty)) + gzip.compress(RAW)
    assert sent(client, "/v1/ranking", raw, "gzip").status_code == 413
    fits = empty * 1000 + gzip.compress(RAW)
    assert sent(client, "/v1/ranking", fits, "gzip").status_code == 200


def bomb(size: int) -> bytes:
    """White space that gzip makes a thousand times smaller."""
    return gzip.compress(b" " * size)


def test_a_bomb_is_refused_before_it_is_inflated(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    reserve = BodyBudget.reserve
    monkeypatch.setattr(
        BodyBudget,
        "reserve",
        lambda self, count, size: held.append(count) or reserve(self, count, size),
    )
    raw = bomb(32 << 20)
    assert len(raw) < BODY_LIMIT_BYTES
    assert sent(client, "/v1/ranking", raw, "gzip").status_code == 413
    assert sum(held) <= BODY_LIMIT_BYTES


def test_room_is_counted_of_inflated_bytes(
    mock_in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And given back with the answer."""
    held: list[int] = []
    reserve, end = BodyBudget.reserve, BodyBudget._end
    monkeypatch.setattr(
        BodyBudget,
        "reserve",
        lambda self, count, size: held.append(count) or reserve(self, count, size),
    )
    monkeypatch.setattr(
        BodyBudget, "_end", lambda self, size: held.append(-size) or end(self, size)
    )
    raw = RAW.ljust(50_000)
    assert sent(mock_in_process.http, "/v1/ranking", gzip.compress(raw), "gzip").status_code == 200
    assert held[0] == len(raw)
    assert sum(held) == 0


def test_what_has_no_room_is_refused_while_it_is_inflated(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_FOR_SMALL", 1.0)  # none is left for large ones
    raw = gzip.compress(RAW.ljust(BODY_LIMIT_BYTES))
    served = sent(client, "/v1/ranking", raw, "gzip").status_code
    monkeypatch.setattr(connection, "_SMALL", 0.0)
    assert (served, sent(client, "/v1/ranking", raw, "gzip").status_code) == (200, 503)


class Steps(TimeSlices):
    """Turns that count how often they were waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    async def wait(self) -> None:
        self.waits += 1
        await super().wait()


def inflated(
    coding: str, pieces: list[bytes], slices: TimeSlices | None = None
) -> tuple[bytes, list[int]]:
    """What `pieces` become, and the sizes of the parts."""
    parts: list[bytes] = []

    async def run() -> None:
        inflater = Inflater(coding, slices or TimeSlices())
        for piece in pieces:
            await inflater.inflate(piece, parts.append)
        inflater.end()

    asyncio.run(run())
    return b"".join(parts), [len(part) for part in parts]


@pytest.mark.parametrize("piece", [1, 7, 8192, 8193, 1 << 20])
@pytest.mark.parametrize("form", list(STREAMS))
def test_pieces_of_any_size_are_one_stream(form: str, piece: int) -> None:
    coding, compress = STREAMS[form]
    raw = json.dumps([RANKING] * 40).encode()
    whole = compress(raw)
    pieces = [whole[i : i + piece] for i in range(0, len(whole), piece)]
    assert inflated(coding, pieces)[0] == raw


@pytest.mark.parametrize("size", [SLICE_BYTES - 1, SLICE_BYTES, SLICE_BYTES + 1, 5 * SLICE_BYTES])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_parts_are_bounded_and_all_there(coding: str, size: int) -> None:
    """Also where the last byte of a full part is the stream's."""
    raw = b" " * size
    compress = gzip.compress if coding == "gzip" else zlib.compress
    slices = Steps()
    found, sizes = inflated(coding, [compress(raw)], slices)
    assert found == raw
    assert max(sizes) <= SLICE_BYTES
    assert slices.waits == len(sizes) - 1


@pytest.mark.parametrize("unit", [gzip.compress(b""), gzip.compress(b"x")], ids=["empty", "short"])
def test_members_do_not_each_cost_a_time_slice(unit: bytes) -> None:
    slices = Steps()
    raw = unit * 10_000
    assert len(inflated("gzip", [raw], slices)[0]) in (0, 10_000)
    assert slices.waits == -(-len(raw) // 8192) - 1


def test_others_go_on_while_a_body_is_inflated() -> None:
    """A part of every large body in each turn: none waits until another is whole."""
    order: list[int] = []

    async def run() -> None:
        slices = TimeSlices()

        async def one(number: int) -> None:
            inflater = Inflater("gzip", slices)
            await inflater.inflate(bomb(8 * SLICE_BYTES), lambda _: order.append(number))

        await asyncio.gather(one(1), one(2))

    asyncio.run(run())
    assert {tuple(sorted(order[i : i + 2])) for i in range(0, 16, 2)} == {(1, 2)}


def test_bytes_behind_the_end_are_refused_as_they_come() -> None:
    whole = zlib.compress(RAW)
    with pytest.raises(InvalidRequest, match="behind its end"):
        inflated("deflate", [whole, b"x"])


def test_a_bomb_is_cut_off_before_it_is_whole(mock_server: Server) -> None:
    raw = bomb(32 << 20)
    head = (
        "POST /v1/ranking HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-encoding: gzip\r\ncontent-length: {BODY_LIMIT_BYTES}\r\n\r\n"
    )
    address = ("127.0.0.1", mock_server.port)
    with socket.create_connection(address, timeout=PATIENCE_S) as connected:
        connected.sendall(head.encode() + raw)
        with connected.makefile("rb") as answer:
            received = answer.read()
    assert received.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in received.lower()
