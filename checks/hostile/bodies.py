"""Bodies of any size that cost more to read than to send, one line for each kind.

A body repeats one unit up to its size, where a surface reads a list, an object or a text. Surfaces
that begin with a slash are paths of HTTP, the others methods of gRPC.
"""

import gzip
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

MODEL = "{model}"
_INFER = f"/v2/models/{MODEL}/infer"
_JSON = {"content-type": "application/json"}
_BINARY = {"content-type": "application/octet-stream"}
_LENGTH = "inference-header-content-length"


@dataclass(frozen=True)
class Body:
    """`make` returns the body for a size. A body with `may_pass` is valid."""

    surface: str
    what: str
    make: Callable[[int], bytes]
    headers: Mapping[str, str] = field(default_factory=lambda: _JSON)
    may_pass: bool = False

    @property
    def name(self) -> str:
        """The surface and the kind of content."""
        return f"{self.surface} {self.what}"

    @property
    def answers(self) -> frozenset[str]:
        """The right answers: a refusal of HTTP or gRPC, or a result where it may pass."""
        return _REFUSED | _SERVED if self.may_pass else _REFUSED


_REFUSED = frozenset({"400", "413", "422", "INVALID_ARGUMENT", "NOT_FOUND"})
_SERVED = frozenset({"200", "OK"})
# Other right answers when several are sent at once: no room, or no time.
FULL = frozenset({"429", "503", "504", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"})

# JSON: the place of a list on each surface, and its items.
_LISTS = {
    "/v1/ranking": b'{"query":{"text":"q"},"passages":[%s]}',
    "/v1/embeddings": b'{"input_type":"query","input":[%s]}',
    "/rerank": b'{"query":"q","texts":[%s]}',
    "/v1/rerank": b'{"query":"q","documents":[%s]}',
    "/v2/rerank": b'{"model":"any","query":"q","documents":[%s]}',
    "/score": b'{"text_1":"q","text_2":[%s]}',
    "/embed": b'{"inputs":[%s]}',
    "/tokenize": b'{"inputs":[%s]}',
    _INFER: b'{"inputs":[{"name":"passage","datatype":"BYTES","shape":[1,1],"data":[%s]}]}',
}
_ITEMS = {
    "empty objects": b"{}",
    "empty lists": b"[]",
    "empty texts": b'""',
    "numbers": b"0",
    "nulls": b"null",
    "objects in a list": b'[{"a":[0]}]',
}
# The other lists and objects of one path, and values that no field has.
_PLACES = {
    (_INFER, "inputs"): (b'{"inputs":[%s]}', b"{}"),
    (_INFER, "outputs"): (b'{"inputs":[],"outputs":[%s]}', b'{"name":""}'),
    (_INFER, "a shape"): (b'{"inputs":[{"name":"","datatype":"","shape":[%s]}]}', b"1"),
    (_INFER, "lists of a text"): (_LISTS[_INFER], b'[""]'),
    ("/rerank", "documents"): (b'{"query":"q","documents":[%s]}', b"{}"),
    ("/score", "queries"): (b'{"queries":[%s],"documents":[]}', b'""'),
    ("/v1/ranking", "an unknown field"): (b'{"x":[%s],"query":{},"passages":[]}', b"[]"),
    ("/embed", "an unknown field"): (b'{"x":[%s],"inputs":1}', b"{}"),
    ("/v1/embeddings", "token ids"): (b'{"input":[[%s]],"input_type":"query"}', b"1"),
    ("/v2/repository/index", "an unknown field"): (b'{"x":[%s]}', b"{}"),
    (f"/v2/repository/models/{MODEL}/load", "parameters"): (b'{"parameters":{%s}}', b'"":{}'),
}
# Texts and depth: replacements of a passage, with the part that is repeated.
_TEXTS: dict[tuple[str, str], tuple[bytes, bytes, bytes]] = {
    ("/v1/ranking", "lists in lists"): (b"", b"[", b""),
    ("/v1/ranking", "objects in objects"): (b"", b'{"a":', b""),
    ("/v1/ranking", "white space"): (b'""', b" ", b""),
    ("/v1/ranking", "one text"): (b'{"text":"', b"word ", b'"}'),
    ("/v1/ranking", "one text of escapes"): (b'{"text":"', b"\\u0041", b'"}'),
    ("/v1/ranking", "one text of quotation marks"): (b'{"text":"', b'\\"', b'"}'),
    ("/v1/ranking", "one number"): (b"", b"9", b""),
    ("/rerank", "one text of line ends"): (b'"', b"\\n", b'"'),
    ("/rerank", "one wide text"): (b'"\xf0\x9f\x98\x80', b"word ", b'"'),
}


# Compressed: a coding, and a part of its stream that may be repeated.
_COMPRESSED = {
    "gzip of white space": ("gzip", gzip.compress(b" " * (1 << 20))),
    "gzip of nothing": ("gzip", gzip.compress(b"")),
    "deflate of nothing": ("deflate", b"\0\0\0\xff\xff"),
}


def _list(around: bytes, item: bytes, size: int) -> bytes:
    count = max(1, (size - len(around)) // (len(item) + 1))
    return around % ((item + b",") * (count - 1) + item)


def _repeated(unit: bytes, size: int) -> bytes:
    return unit * (size // len(unit))


def _text(text: tuple[bytes, bytes, bytes], around: bytes, size: int) -> bytes:
    begin, unit, end = text
    return around % (begin + unit * (size // len(unit)) + end)


# A key of seven digits and its value; there are no more in 64 MiB.
_KEY_BYTES = len(b'"1234567":0,')


def _keys(around: bytes, size: int) -> bytes:
    """An object whose keys are all different."""
    return around % b",".join(b'"%d":0' % number for number in range(size // _KEY_BYTES))


def _raw(size: int, unit: bytes = bytes(4)) -> bytes:
    """Raw tensors of elements, most of them empty, after their JSON."""
    count = size // len(unit)
    return _binary({"name": "passage"}, count, unit * count)


def _raw_wide(size: int) -> bytes:
    """A pair with raw texts; the passage has four-byte characters."""
    query = {"name": "query", "datatype": "BYTES", "shape": [1], "data": ["q"]}
    return _binary({"name": "passage"}, 1, _element(_wide(size)), query)


def _binary(tensor: dict[str, Any], count: int, raw: bytes, *others: dict[str, Any]) -> bytes:
    """`tensor` with `count` elements in `raw`, after the JSON of all."""
    tensor |= {"datatype": "BYTES", "shape": [count, 1]}
    tensor["parameters"] = {"binary_data_size": len(raw)}
    return json.dumps({"inputs": [*others, tensor]}).encode().ljust(_HEAD_BYTES) + raw


def _wide(size: int) -> bytes:
    """ASCII and one character that makes every character take four bytes in memory."""
    return b"\xf0\x9f\x98\x80" + b"word " * (size // 5)


def _element(text: bytes) -> bytes:
    """The text with its length before it."""
    return struct.pack("<I", len(text)) + text


_HEAD_BYTES = 250


def _over_http() -> Iterator[Body]:
    for path, around in _LISTS.items():
        for what, item in _ITEMS.items():
            yield Body(path, what, partial(_list, around, item))
    for (path, what), (around, item) in _PLACES.items():
        yield Body(path, what, partial(_list, around, item), may_pass="unknown" in what)
    for (path, what), text in _TEXTS.items():
        passes = what.startswith(("one text", "one wide text"))
        yield Body(path, what, partial(_text, text, _LISTS[path]), may_pass=passes)
    parameters = b'{"inputs":[],"parameters":{%s}}'
    yield Body(_INFER, "different keys", partial(_keys, parameters))
    yield Body("/v2/rerank", "different keys", partial(_keys, b'{"query":"q","documents":[{%s}]}'))
    for what, (coding, part) in _COMPRESSED.items():
        headers = {**_JSON, "content-encoding": coding}
        yield Body("/v1/ranking", what, partial(_repeated, part), headers)
    raw = {**_BINARY, _LENGTH: str(_HEAD_BYTES)}
    yield Body(_INFER, "raw empty texts", _raw, raw)
    yield Body(_INFER, "one raw wide text", _raw_wide, raw, may_pass=True)


# Protocol buffers: the path of field numbers to a place, and the unit that is repeated there.
_INPUT, _OUTPUT, _RAW, _PARAMETER = 5, 6, 7, 4
_CONTENTS = (_INPUT, 5)
_UNKNOWN = 1000
_VARINT, _DELIMITED, _GROUP = 0, 2, 3


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _tag(number: int, kind: int = _DELIMITED) -> bytes:
    return _varint(number << 3 | kind)


def _empty(number: int) -> bytes:
    """An empty text or message."""
    return _tag(number) + b"\x00"


def _zero(number: int) -> bytes:
    return _tag(number, _VARINT) + b"\x00"


def _field(number: int, content: bytes) -> bytes:
    return _tag(number) + _varint(len(content)) + content


def _message(places: tuple[int, ...], unit: bytes, size: int) -> bytes:
    """`unit` repeated up to `size`, at the path of fields `places`."""
    found = unit * max(1, (size - 6 * len(places)) // len(unit))
    for number in reversed(places):
        found = _field(number, found)
    return found


def _inference(passage: Callable[[int], bytes], size: int, *, raw: bool) -> bytes:
    """A request for one pair; raw: `passage` makes the raw contents."""
    text = passage(size - 200)
    found = _field(1, b"nvidia/llama-nemotron-rerank-1b-v2")
    for name, content in ((b"query", b"\1\0\0\0q" if raw else b"q"), (b"passage", text)):
        tensor = _field(1, name) + _field(2, b"BYTES") + _field(3, b"\x01")
        if raw:
            found += _field(_RAW, content)
        else:
            tensor += _field(5, _field(8, content))
        found += _field(_INPUT, tensor)
    return found


_MESSAGES: dict[str, dict[str, tuple[tuple[int, ...], bytes]]] = {
    "ModelInfer": {
        "empty inputs": ((), _empty(_INPUT)),
        "empty outputs": ((), _empty(_OUTPUT)),
        "empty raw contents": ((), _empty(_RAW)),
        "empty parameters": ((), _empty(_PARAMETER)),
        "names again and again": ((), _empty(1)),
        "empty texts": (_CONTENTS, _empty(8)),
        "empty contents": ((_INPUT,), _empty(5)),
        "an input's names": ((_INPUT,), _empty(1)),
        "an input's parameters": ((_INPUT,), _empty(_PARAMETER)),
        "an output's parameters": ((_OUTPUT,), _empty(2)),
        "a packed shape": ((_INPUT, 3), b"\x01"),
        "a shape": ((_INPUT,), _zero(3)),
        "packed bool": ((*_CONTENTS, 1), b"\x00"),
        "packed int32": ((*_CONTENTS, 2), b"\x00"),
        "packed int64": ((*_CONTENTS, 3), b"\x00"),
        "packed uint32": ((*_CONTENTS, 4), b"\x00"),
        "packed uint64": ((*_CONTENTS, 5), b"\x00"),
        "packed float": ((*_CONTENTS, 6), bytes(4)),
        "packed double": ((*_CONTENTS, 7), bytes(8)),
        "int64 one by one": (_CONTENTS, _zero(3)),
        "unknown numbers": ((), _zero(_UNKNOWN)),
        "unknown texts": ((), _empty(_UNKNOWN)),
        "an input's unknown texts": ((_INPUT,), _empty(_UNKNOWN)),
        "groups in groups": ((), _tag(_UNKNOWN, _GROUP)),
        "one name": ((1,), b"/"),
        "a text of no request": ((*_CONTENTS, 8), b"word "),
        "no message": ((), b"\xff"),
    },
    "ModelMetadata": {"one name": ((1,), b"/"), "unknown texts": ((), _empty(_UNKNOWN))},
    "ModelStatistics": {"names again and again": ((), _empty(1))},
    "RepositoryIndex": {"unknown numbers": ((), _zero(_UNKNOWN))},
    "RepositoryModelLoad": {"empty parameters": ((), _empty(3))},
}


def _over_grpc() -> Iterator[Body]:
    for method, bodies in _MESSAGES.items():
        for what, (places, unit) in bodies.items():
            make = partial(_message, places, unit)
            yield Body(method, what, make, {}, may_pass=what == "names again and again")
    for what, passage, raw in (
        ("one text", partial(_repeated, b"word "), False),
        ("one wide text", _wide, False),
        ("one raw wide text", lambda size: _element(_wide(size)), True),
        ("one raw text", partial(_repeated, b"    "), True),  # as a length it is too long
        ("raw empty texts", partial(_repeated, bytes(4)), True),
    ):
        make = partial(_inference, passage, raw=raw)
        passes = what == "one text" or "wide" in what
        yield Body("ModelInfer", what, make, {}, may_pass=passes)


BODIES = (*_over_http(), *_over_grpc())
