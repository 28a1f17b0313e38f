"""Decoding item by item gives what decoding at once gives, for every request of every dialect."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from server import json_items
from server.errors import InvalidRequest
from server.json_body import decode
from server.json_items import decode_items
from server.kserve.rest import InferRequest
from server.lax import lax_decoder
from server.surfaces import cohere, nim, openai, rerank, tei, vllm
from server.time_slices import SLICE_BYTES, TimeSlices
from tests.server.surfaces.test_fields import ROWS

DECODERS: dict[str, "msgspec.json.Decoder[Any]"] = {
    "/v1/ranking": nim._DECODER,
    "/v1/embeddings": openai._DECODER,
    "/rerank": rerank._DECODER,
    "/v1/rerank": cohere._V1,
    "/v2/rerank": cohere._V2,
    "/score": vllm._DECODER,
    "/embed": tei._EMBED,
    "/tokenize": tei._TOKENIZE,
    "/v2/models/{model}/infer": msgspec.json.Decoder(InferRequest),
}
BODIES = {
    (row.path, json.dumps({**row.route["body"], **row.field_row.get("with", {}), **value}))
    for row in ROWS
    if row.path in DECODERS
    for value in ({}, {row.field: row.field_row["value"]} if "value" in row.field_row else {})
}
WRONG = [
    ("/v1/ranking", '{"query": {"text": "q"}, "passages": [{"text": "a"}, {"text": 5}]}'),
    ("/v1/ranking", '{"query": {"text": "q"}, "passages": [{"text": "a"}, 5]}'),
    ("/v1/ranking", '{"query": {"text": "q"}, "passages": {"text": "a"}}'),
    ("/v1/ranking", '{"query": {"text": "q"}, "passages": null}'),
    ("/v1/ranking", '{"query": {"text": "q"}}'),
    ("/v1/ranking", '{"query": {}, "passages": []}'),
    ("/v1/ranking", '{"query": 1, "passages": []}'),
    ("/v1/ranking", "[]"),
    ("/v1/ranking", ""),
    ("/v1/ranking", '{"query": {"text": "q"}, "passages": [{"text": "a"},]}'),
    ("/v1/ranking", '{"query": {"text": "q"}, "passages": [{"text": "\\ud800"}]}'),
    ("/v1/ranking", '{"query": {"text": "q"}, "passages": [{"text": "\\q"}]}'),
    ("/v1/ranking", '{"query": {"text": "q"}, "passages": [{"text": "a"}]'),
    ("/v1/embeddings", '{"input": ["a", 1]}'),
    ("/v1/embeddings", '{"input": [[1, 2]]}'),
    ("/v1/embeddings", '{"input": 1}'),
    ("/v1/embeddings", '{"input": null, "dimensions": "x"}'),
    ("/v1/embeddings", '{"input": [], "input": ["a"], "input": ["b"]}'),
    ("/v1/embeddings", '{"input": ["a"], "modality": ["text", 1], "normalize": "off"}'),
    ("/rerank", '{"documents": "a", "texts": 1, "query": [1, {"a": [null]}]}'),
    ("/score", '{"text_1": ["a", 1], "text_2": "b"}'),
]


def outcome(work: Any) -> Any:
    """What it gives, or where and why it fails; places in the text of JSON count from its part."""
    try:
        return work()
    except InvalidRequest as error:
        if error.problem == "json_invalid":
            return error.problem, error.location
        return error.problem, error.location, str(error)


@pytest.mark.parametrize(("path", "body"), sorted(BODIES) + WRONG)
def test_the_same(monkeypatch: pytest.MonkeyPatch, path: str, body: str) -> None:
    monkeypatch.setattr(json_items, "SLICE_BYTES", -1)  # as if it were large
    decoder, raw = DECODERS[path], body.encode()
    found = outcome(lambda: asyncio.run(decode_items(decoder, raw, TimeSlices())))
    assert found == outcome(lambda: decode(decoder, raw))


def test_bytes_that_are_not_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_items, "SLICE_BYTES", -1)
    for raw in (b'{"input": ["\xff"]}', b'{"input": "\xff"}'):
        with pytest.raises(InvalidRequest, match="not UTF-8"):
            asyncio.run(decode_items(openai._DECODER, raw, TimeSlices()))


def test_a_time_slice_has_one_large_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a walk over the body, texts of half a slice go by two, larger ones alone."""
    sizes = []

    class Slices(TimeSlices):
        async def wait(self) -> None:
            sizes.append(0)

    def counting(decoder: Any, part: Any, at: Any = ()) -> Any:
        if len(at) == 2:  # an item
            sizes[-1] += len(part)
        return decode(decoder, part, at)

    monkeypatch.setattr(json_items, "decode", counting)
    half = "x" * (SLICE_BYTES // 2 - 2)  # with its quotation marks
    given = {"input": [half] * 6 + ["y" * 4 * SLICE_BYTES, half]}
    found = asyncio.run(decode_items(openai._DECODER, json.dumps(given).encode(), Slices()))
    assert found.input == given["input"]
    large = 4 * SLICE_BYTES + 2
    assert sizes == [0, SLICE_BYTES, SLICE_BYTES, SLICE_BYTES, large, SLICE_BYTES // 2]


def test_a_small_body_is_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_items, "_outline_of", None)
    decoder = lax_decoder(openai.EmbeddingRequest)
    found = asyncio.run(decode_items(decoder, b'{"input": ["a"]}', TimeSlices()))
    assert found.input == ["a"]
