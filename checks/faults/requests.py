"""Groups 4 to 6: requests of the wrong shape, embeddings, numbers."""

import base64
import itertools
import json
import math
import socket
import struct
from functools import partial
from typing import Any

from checks.faults.fault import Fault, NotApplicable, answered, expect, refused, survived
from checks.faults.target import PASSAGES, QUERY, Target, ranking
from checks.load import DIALECTS

_SCHEMA, _EMBED, _NUMBERS = "4 schema", "5 embed", "6 numbers"
# Scores of one pair alone and in a batch: float32 sums in another order.
_DRIFT = 2e-3
_LONG_WORDS = 50_000


def _changed(field: str, value: object) -> dict[str, Any]:
    return {**ranking(), field: value}


def _without(field: str) -> dict[str, Any]:
    return {name: value for name, value in ranking().items() if name != field}


_REFUSED: dict[str, Any] = {
    "query missing": _without("query"),
    "query null": _changed("query", None),
    "query a number": _changed("query", 7),
    "query without text": _changed("query", {}),
    "query text a list": _changed("query", {"text": ["a"]}),
    "query text empty": _changed("query", {"text": ""}),
    "query text blank": _changed("query", {"text": " \n\t"}),
    "passages missing": _without("passages"),
    "passages null": _changed("passages", None),
    "passages an object": _changed("passages", {"text": "a"}),
    "passages of numbers": _changed("passages", [1, 2]),
    "no passages": _changed("passages", []),
    "passage text null": _changed("passages", [{"text": None}]),
    "passage text empty": _changed("passages", [{"text": "good"}, {"text": ""}]),
    "passage text blank": _changed("passages", [{"text": " \t "}]),
    "unknown model": _changed("model", "nobody/knows-this"),
    "model leads elsewhere": _changed("model", "../../etc/passwd"),
    "model of 10000 characters": _changed("model", "m" * 10_000),
    "model with control characters": _changed("model", "a\r\nb\x1b[31m"),
    "truncate unknown": _changed("truncate", "MIDDLE"),
    "truncate in lower case": _changed("truncate", "end"),
    "truncate a number": _changed("truncate", 1),
    "an image from a file": _changed("passages", [{"image": "file:///etc/passwd"}]),
}
_SURVIVED: dict[str, Any] = {
    "an unknown field": _changed("top_k", 3),
    "model null": _changed("model", None),
    "one character": _changed("passages", [{"text": "x"}]),
    "a query longer than the context": {
        **_changed("query", {"text": "word " * 20_000}),
        "truncate": "END",
    },
}
_TEXTS: dict[str, str] = {
    "emoji": "😀👩‍👩‍👧‍👦" * 500,
    "combining marks": "e" + "\u0301" * 10_000,
    "right to left": "\u202eשלום\u202c " * 500,
    "zero-width joiners": "\u200d" * 5_000 + "x",
    "special tokens": "</s><|begin_of_text|><|end_of_text|>[SEP][CLS]<s>",
    "the prompt's own template": "question:a \n \n passage:b",
    "1000000 equal characters": "a" * 1_000_000,
    "10 MB": "lorem ipsum " * 830_000,
}


def _refuses(body: object, target: Target) -> None:
    refused(target.post("/v1/ranking", body))


def _survives(body: object, target: Target) -> None:
    survived(target.post("/v1/ranking", body))


def _text(text: str, target: Target) -> None:
    if len(text.encode()) > target.body_limit_bytes:
        raise NotApplicable("longer than a body may be")
    answered(target.rank(text, "another passage", truncate="END"))


def _too_many(target: Target) -> None:
    refused(target.rank(*["x"] * (target.max_passages + 1)))


def _as_many_as_allowed(target: Target) -> None:
    found = target.rank(*(f"passage {i}" for i in range(target.max_passages)))
    answered(found)
    expect(len(found.json()["rankings"]) == target.max_passages, "not every passage was ranked")


def _far_too_many(target: Target) -> None:
    refused(target.rank(*["x"] * 100_000))


def _exact_length(target: Target) -> None:
    """The longest pair that is not truncated, found by bisection; one word more is refused, or
    truncated on request."""

    def fits(words: int) -> bool:
        return target.rank("word " * words, truncate="NONE").status_code == 200

    low, high = 1, _LONG_WORDS
    if fits(high):
        raise NotApplicable(f"{_LONG_WORDS} words are not too long")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    refused(target.rank("word " * high, truncate="NONE"))
    answered(target.rank("word " * high, truncate="END"))


def _duplicates(target: Target) -> None:
    found = target.rank("same", "other words", "same", "same").raise_for_status().json()["rankings"]
    same = [entry["logit"] for entry in found if entry["index"] != 1]
    expect(max(same) == min(same), "equal passages have different scores")
    order = [entry["index"] for entry in found if entry["index"] != 1]
    expect(order == sorted(order), "ties do not keep the order given")


def _one_bad_among_good(target: Target) -> None:
    body = ranking(*["good"] * 20)
    body["passages"][13]["text"] = ""
    found = target.post("/v1/ranking", body)
    refused(found)
    expect("13" in found.text, "the refusal does not name the passage")


def _no_echo(target: Target) -> None:
    secret = "Zq7-never-repeat-this"
    bodies = (
        ranking(secret * 20_000),
        _changed("model", secret),
        _changed("truncate", secret),
        _changed(secret, {"text": 1}) | {"query": secret},
    )
    for body in bodies:
        found = target.post("/v1/ranking", body)
        expect(found.status_code < 500, f"found {found.status_code}")
        expect(secret not in found.text or found.status_code == 200, "the input is repeated")


# Embeddings
def _embedding(**changes: object) -> dict[str, object]:
    return {"input": ["some text"], "input_type": "passage", **changes}


def _embeds(target: Target) -> None:
    if not target.serves("/v1/embeddings", _embedding()):
        raise NotApplicable("no embedder is served")


def _embedding_refused(body: object, target: Target) -> None:
    _embeds(target)
    refused(target.post("/v1/embeddings", body))


def _embedding_survived(body: object, target: Target) -> None:
    _embeds(target)
    survived(target.post("/v1/embeddings", body))


def _base64(target: Target) -> None:
    _embeds(target)
    plain, packed = (
        target.post("/v1/embeddings", _embedding(encoding_format=form)).raise_for_status().json()
        for form in ("float", "base64")
    )
    raw = base64.b64decode(packed["data"][0]["embedding"])
    values = struct.unpack(f"<{len(raw) // 4}f", raw)
    pairs = zip(values, plain["data"][0]["embedding"], strict=True)
    expect(all(math.isclose(a, b, abs_tol=1e-5) for a, b in pairs), "base64 and float differ")


def _nobody_is_asked(target: Target) -> None:
    """A URL in the place of a text or an image must not be fetched."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(1.0)
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/image.png"
        for body in (
            _changed("passages", [{"image": url}]),
            _changed("passages", [{"text": "a", "image": url}]),
        ):
            refused(target.post("/v1/ranking", body))
        target.post("/v1/embeddings", _embedding(input=[{"image_url": url}]))
        target.post("/v1/embeddings", _embedding(input=[url]))
        try:
            trap.accept()
        except TimeoutError:
            return
    expect(False, "the server fetched a URL out of a request")


# Numbers
def _only_numbers(target: Target) -> None:
    def refuse(word: str) -> float:
        raise ValueError(word)

    json.loads(target.rank().content, parse_constant=refuse)


def _alone_or_in_company(target: Target) -> None:
    others = [f"{'filler ' * (i % 40)}{i}" for i in range(min(40, target.max_passages - 2))]
    (alone,) = target.logits(PASSAGES[0])
    among = target.logits(*others, PASSAGES[0])[-1]
    expect(abs(alone - among) <= _DRIFT, f"{alone} alone, {among} among others")


def _any_order(target: Target) -> None:
    texts = [f"{'word ' * i}end" for i in range(1, 8)]
    forward, backward = target.logits(*texts), target.logits(*texts[::-1])[::-1]
    worst = max(abs(a - b) for a, b in zip(forward, backward, strict=True))
    expect(worst <= _DRIFT, f"another order changes scores by {worst}")


def _same_again(target: Target) -> None:
    found = [target.logits(*PASSAGES) for _ in range(5)]
    worst = max(
        abs(a - b) for one, two in itertools.pairwise(found) for a, b in zip(one, two, strict=True)
    )
    expect(worst <= _DRIFT, f"the same request changes scores by {worst}")


def _every_dialect(target: Target) -> None:
    wanted, spoken = target.logits(*PASSAGES), 0
    for path, body, scores in DIALECTS[1:]:
        found = target.post(path, body(QUERY, list(PASSAGES)))
        if found.status_code != 200:
            continue
        spoken += 1
        worst = max(abs(a - b) for a, b in zip(scores(found.json()), wanted, strict=True))
        expect(worst <= _DRIFT, f"{path} differs by {worst}")
    if not spoken:
        raise NotApplicable("one dialect only")


FAULTS: tuple[Fault, ...] = (
    *(Fault(_SCHEMA, name, partial(_refuses, body)) for name, body in _REFUSED.items()),
    *(Fault(_SCHEMA, name, partial(_survives, body)) for name, body in _SURVIVED.items()),
    *(Fault(_SCHEMA, name, partial(_text, text)) for name, text in _TEXTS.items()),
    Fault(_SCHEMA, "as many passages as allowed", _as_many_as_allowed),
    Fault(_SCHEMA, "one passage too many", _too_many),
    Fault(_SCHEMA, "100000 passages", _far_too_many),
    Fault(_SCHEMA, "a pair of exactly the longest length", _exact_length),
    Fault(_SCHEMA, "duplicates and ties", _duplicates),
    Fault(_SCHEMA, "one bad passage among many", _one_bad_among_good),
    Fault(_SCHEMA, "inputs are not repeated in refusals", _no_echo),
    Fault(_EMBED, "base64 is the same vector", _base64),
    Fault(_EMBED, "token ids", partial(_embedding_survived, _embedding(input=[[1, 2, 3]]))),
    Fault(_EMBED, "dimensions 0", partial(_embedding_refused, _embedding(dimensions=0))),
    Fault(_EMBED, "dimensions negative", partial(_embedding_refused, _embedding(dimensions=-1))),
    Fault(_EMBED, "dimensions over", partial(_embedding_survived, _embedding(dimensions=10**6))),
    Fault(_EMBED, "no input_type", partial(_embedding_survived, {"input": ["a"]})),
    Fault(_EMBED, "input_type unknown", partial(_embedding_refused, _embedding(input_type="x"))),
    Fault(_EMBED, "no input", partial(_embedding_refused, _embedding(input=[]))),
    Fault(_EMBED, "blank input", partial(_embedding_refused, _embedding(input=["a", " "]))),
    Fault(_EMBED, "encoding unknown", partial(_embedding_refused, _embedding(encoding_format="x"))),
    Fault(_EMBED, "no URL of a request is fetched", _nobody_is_asked),
    Fault(_NUMBERS, "no NaN in JSON", _only_numbers),
    Fault(_NUMBERS, "a pair alone and in company", _alone_or_in_company),
    Fault(_NUMBERS, "another order", _any_order),
    Fault(_NUMBERS, "the same request again", _same_again),
    Fault(_NUMBERS, "the same pair in every dialect", _every_dialect),
)
