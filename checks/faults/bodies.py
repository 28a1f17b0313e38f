"""Groups 1 to 3: bodies, framing, the edges of HTTP."""

import gzip
import json
import socket
import zlib
from collections.abc import Callable, Iterator
from functools import partial

import brotli

from checks.faults.fault import Broken, Fault, expect, refused, survived
from checks.faults.target import (
    BODY,
    PATIENCE_S,
    REFUSAL_S,
    Stopwatch,
    Target,
    ranking,
    received,
    status,
)

_BODY, _FRAMING, _EDGES = "1 body", "2 framing", "3 edges"
_DEEP = b"[" * 100_000 + b"]" * 100_000

_REFUSED_BODIES: dict[str, bytes] = {
    "empty": b"",
    "empty object": b"{}",
    "null": b"null",
    "array at the top": b"[" + BODY + b"]",
    "UTF-16": BODY.decode().encode("utf-16"),
    "invalid UTF-8": BODY.replace(b"nice", b"\xff\xfe"),
    "truncated JSON": BODY[:-5],
    "trailing garbage": BODY + b"}}",
    "depth 100000": _DEEP,
    "depth 100000 in a passage": BODY.replace(b'"The weather is nice today"', _DEEP),
    "depth 100000 in an unknown field": BODY[:-1] + b', "x": ' + _DEEP + b"}",
    "NaN literal": BODY.replace(b'"The weather is nice today"', b"NaN"),
    "lone surrogate": BODY.replace(b"nice", b"\\ud800"),
}
_SURVIVED_BODIES: dict[str, bytes] = {
    "byte order mark": b"\xef\xbb\xbf" + BODY,
    "duplicate keys": BODY[:-1] + b', "query": {"text": "again"}}',
    "depth 101 in an unknown field": BODY[:-1] + b', "x": ' + b"[" * 101 + b"]" * 101 + b"}",
    "10^400": BODY[:-1] + b', "x": 1e400}',
    "huge integer": BODY[:-1] + b', "x": ' + b"9" * 5000 + b"}",
    "NUL in a text": BODY.replace(b"nice", b"\\u0000"),
}


def _refuses_body(body: bytes, target: Target) -> None:
    refused(target.send(body))


def _survives_body(body: bytes, target: Target) -> None:
    survived(target.send(body))


def _encoded(name: str, body: bytes, target: Target) -> None:
    watch = Stopwatch(target)
    survived(target.send(body, content_encoding=name))
    watch.expect(REFUSAL_S, "the answer to a compressed body")


def _wrong_type(name: str, target: Target) -> None:
    refused(target.send(BODY, content_type=name))


def _type_with_charset(target: Target) -> None:
    survived(target.send(BODY, content_type="application/json; charset=utf-8"))


_CHUNKED = "Transfer-Encoding: chunked"
_LONG_BODY = json.dumps(ranking("x" * 100_000)).encode()


def _chunks(body: bytes, extension: bytes = b"") -> bytes:
    parts = [b"1" + extension + b"\r\n" + bytes([byte]) + b"\r\n" for byte in body]
    return b"".join(parts) + b"0\r\n\r\n"


_Raw = Callable[[Target], bytes]


def _status(raw: _Raw, target: Target) -> int:
    """The status of bytes on a socket; 0 is a closed connection."""
    found = target.exchange(raw(target))
    expect(b"Traceback" not in found, "the answer shows a stack trace")
    return status(found)


def _refuses(raw: _Raw, target: Target, also: int = 0) -> None:
    found = _status(raw, target)
    refusal = found in (0, also) or 400 <= found < 500
    wanted = f"{also}, " * bool(also) + "4xx or a closed connection"
    expect(refusal, f"found {found}, wanted {wanted}")


def _survives(raw: _Raw, target: Target) -> None:
    found = _status(raw, target)
    expect(found < 500, f"found {found}, wanted anything but 5xx")


_REFUSED_FRAMES: dict[str, _Raw] = {
    "Content-Length too small": lambda t: t.head("Content-Length: 10") + BODY,
    "Content-Length negative": lambda t: t.head("Content-Length: -1") + BODY,
    "Content-Length no number": lambda t: t.head("Content-Length: ten") + BODY,
    "Content-Length of 40 digits": lambda t: t.head(f"Content-Length: {'9' * 40}") + BODY,
    "Content-Length twice, different": lambda t: (
        t.head("Content-Length: 10", f"Content-Length: {len(BODY)}") + BODY
    ),
    "Transfer-Encoding and Content-Length": lambda t: (
        t.head(_CHUNKED, "Content-Length: 4") + _chunks(BODY)
    ),
    "a chunk extension of 1 MiB": lambda t: (
        t.head(_CHUNKED) + b"1;" + b"x" * (1 << 20) + b"\r\n{\r\n"
    ),
    "a chunk size of 40 digits": lambda t: t.head(_CHUNKED) + b"F" * 40 + b"\r\n" + BODY,
    "bytes that are no HTTP": lambda _: b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
}
_SURVIVED_FRAMES: dict[str, _Raw] = {
    "unknown Transfer-Encoding": lambda t: t.head("Transfer-Encoding: nonsense") + _chunks(BODY),
    "100000 chunks of one byte": lambda t: t.head(_CHUNKED) + _chunks(_LONG_BODY),
    "10000 chunk extensions": lambda t: t.head(_CHUNKED) + _chunks(BODY, b";a=b" * 10),
}
_REFUSED_HEADS: dict[str, _Raw] = {
    "10000 headers": lambda t: t.head(*(f"X-{i}: y" for i in range(10_000))),
    "a header of 64 KiB": lambda t: t.head("X: " + "y" * (64 << 10)),
    "a URL of 1 MiB": lambda t: _get(t, f"/v1/models?{'x' * (1 << 20)}"),
    "dots in the path": lambda t: _get(t, "/../../etc/passwd"),
}
_SURVIVED_HEADS: dict[str, _Raw] = {
    "HTTP/1.0": lambda t: _get(t, "/v1/health/ready", version="1.0"),
    "TRACE": lambda t: t.head(method="TRACE", path="/"),
    "a method nobody knows": lambda t: t.head(method="BREW"),
    "OPTIONS": lambda t: t.head(method="OPTIONS"),
    "an absolute URL": lambda t: _get(t, "http://other/v1/models"),
    "an encoded slash": lambda t: _get(t, "/v1%2Fmodels"),
    "an encoded NUL": lambda t: _get(t, "/v1/%00"),
    "a header that is no text": lambda t: _get(t, "/v1/models")[:-2] + b"X: \xff\xfe\r\n\r\n",
}


def _get(target: Target, path: str, version: str = "1.1") -> bytes:
    return target.head(method="GET", path=path, version=version)


def _unknown_version(target: Target) -> None:
    _refuses(lambda t: _get(t, "/v1/health/ready", version="9.9"), target, also=505)


def _announced_too_large(target: Target) -> None:
    watch = Stopwatch(target)
    with target.connection() as connected:
        connected.sendall(target.head("Content-Length: 99999999999", "Expect: 100-continue"))
        found = received(connected, PATIENCE_S)
    expect(status(found) == 413, f"found {status(found)}, wanted 413 before the body is sent")
    watch.expect(REFUSAL_S, "the refusal")


def _expect_continue(target: Target) -> None:
    with target.connection() as connected:
        connected.sendall(target.head(f"Content-Length: {len(BODY)}", "Expect: 100-continue"))
        connected.settimeout(10)
        first = connected.recv(200)
        expect(b" 100 " in first.split(b"\r\n")[0], "no 100 Continue")
        connected.sendall(BODY)
        found = received(connected, 10)
    expect(status(found) == 200, f"found {status(found)} after the body")


def _at_the_limit(over: int, target: Target) -> None:
    body = json.dumps(ranking()).encode()
    body += b" " * (target.body_limit_bytes + over - len(body))
    found = target.send(body).status_code
    wanted = "413" if over else "anything but 413"
    expect((found == 413) == bool(over), f"found {found} for {len(body)} bytes, wanted {wanted}")


def _chunked_over_the_limit(target: Target) -> None:
    part = b" " * 65536

    def stream() -> Iterator[bytes]:
        yield BODY
        for _ in range(target.body_limit_bytes // len(part) + 2):
            yield part

    try:
        found = target.http.post("/v1/ranking", content=stream()).status_code
    except OSError:
        return
    except Exception as error:
        if "Broken pipe" in str(error) or "reset" in str(error).lower():
            return
        raise
    expect(found == 413, f"found {found}, wanted 413 or a closed connection")


def _pipelined(target: Target) -> None:
    one = target.head(f"Content-Length: {len(BODY)}") + BODY
    found = target.exchange(one * 3, answers=3)
    expect(found.count(b"HTTP/1.1 200") == 3, "not all of three pipelined requests were answered")


def _head_method(target: Target) -> None:
    found = target.http.head("/v1/health/ready").status_code
    expect(found in (200, 405), f"found {found}")


def _unknown_route(target: Target) -> None:
    refused(target.http.get("/v1/nothing/here"), 404)


def _spelled(path: str, target: Target) -> None:
    survived(target.post(path, ranking()))


def _half_closed(target: Target) -> None:
    with target.connection() as connected:
        connected.sendall(target.head(f"Content-Length: {len(BODY)}") + BODY)
        connected.shutdown(socket.SHUT_WR)
        found = received(connected, 10)
    if status(found) not in (0, 200):
        raise Broken(f"found {status(found)}")


def _bomb(target: Target) -> None:
    packer = zlib.compressobj(9, wbits=31)
    zeros = b" " * (1 << 20)
    body = b"".join(packer.compress(zeros) for _ in range(256)) + packer.flush()
    _encoded("gzip", body, target)


FAULTS: tuple[Fault, ...] = (
    *(Fault(_BODY, name, partial(_refuses_body, b)) for name, b in _REFUSED_BODIES.items()),
    *(Fault(_BODY, name, partial(_survives_body, b)) for name, b in _SURVIVED_BODIES.items()),
    Fault(_FRAMING, "content type with charset", _type_with_charset),
    Fault(_FRAMING, "form data", partial(_wrong_type, "application/x-www-form-urlencoded")),
    Fault(_FRAMING, "multipart", partial(_wrong_type, "multipart/form-data; boundary=x")),
    Fault(_FRAMING, "gzip", partial(_encoded, "gzip", gzip.compress(BODY))),
    Fault(_FRAMING, "gzip, corrupt", partial(_encoded, "gzip", gzip.compress(BODY)[:-9])),
    Fault(_FRAMING, "gzip in gzip", partial(_encoded, "gzip", gzip.compress(gzip.compress(BODY)))),
    Fault(_FRAMING, "gzip bomb of 256 MiB", _bomb),
    Fault(_FRAMING, "deflate", partial(_encoded, "deflate", zlib.compress(BODY))),
    Fault(_FRAMING, "br", partial(_encoded, "br", brotli.compress(BODY))),
    Fault(_FRAMING, "zstd", partial(_encoded, "zstd", b"\x28\xb5\x2f\xfd\x00")),
    *(Fault(_FRAMING, name, partial(_refuses, raw)) for name, raw in _REFUSED_FRAMES.items()),
    *(Fault(_FRAMING, name, partial(_survives, raw)) for name, raw in _SURVIVED_FRAMES.items()),
    Fault(_FRAMING, "Content-Length far too large", _announced_too_large),
    Fault(_FRAMING, "Expect: 100-continue", _expect_continue),
    Fault(_EDGES, "a body at the limit", partial(_at_the_limit, 0)),
    Fault(_EDGES, "a body one byte over the limit", partial(_at_the_limit, 1)),
    Fault(_EDGES, "over the limit in chunks", _chunked_over_the_limit),
    *(Fault(_EDGES, name, partial(_refuses, raw)) for name, raw in _REFUSED_HEADS.items()),
    *(Fault(_EDGES, name, partial(_survives, raw)) for name, raw in _SURVIVED_HEADS.items()),
    Fault(_EDGES, "HTTP/9.9", _unknown_version),
    Fault(_EDGES, "three pipelined requests", _pipelined),
    Fault(_EDGES, "HEAD", _head_method),
    Fault(_EDGES, "unknown route", _unknown_route),
    Fault(_EDGES, "trailing slash", partial(_spelled, "/v1/ranking/")),
    Fault(_EDGES, "double slash", partial(_spelled, "//v1//ranking")),
    Fault(_EDGES, "a half-closed connection", _half_closed),
)
