"""A text of which the tokenizer makes nothing is refused before it is a row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import models

from server.names import triton_name
from tests.server.in_process import InProcess, Serve

BLANK = ("\u200b", "\ufeff\u2060", "\xad", "\x00")
UNKNOWN = ("x", "\u0301")


def tensors(text: str) -> dict[str, Any]:
    named = ("query", "passage")
    given = {"shape": [1, 1], "datatype": "BYTES", "data": [text]}
    return {"inputs": [{"name": name, **given} for name in named]}


# A body of each surface, and where its query and its passage stand.
BODIES: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "/v1/ranking": (
        lambda text: {"query": {"text": text}, "passages": [{"text": text}]},
        "query.text",
        "passages[0].text",
    ),
    # TEI and vLLM take blank texts.
    "/rerank": (lambda text: {"query": text, "texts": [text]}, "", "texts[0]"),
    "/score": (lambda text: {"text_1": text, "text_2": [text]}, "", "text_2[0]"),
    "/v1/rerank": (lambda text: {"query": text, "documents": [text]}, "query", "documents[0]"),
    "/v2/rerank": (lambda text: {"query": text, "documents": [text]}, "query", "documents[0]"),
    "/v1/score": (lambda text: {"queries": [text], "items": text}, "", "items"),
    "/v2/models/{}/infer": (tensors, "query[0]", "passage[0]"),
}


@pytest.fixture
def server(serve: Serve, bare_directory: Path) -> InProcess:
    """Its tokenizer has no post-processor and knows a few letters only."""
    letters = {letter: number for number, letter in enumerate("adehilnortyAs,.")}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.save(str(bare_directory / "tokenizer" / "tokenizer.json"))
    profile = {"RERANK_MODEL_PROFILE": "bert-cross-encoder"}
    return serve({"NIM_CUSTOM_MODEL": str(bare_directory), **profile})


def test_every_dialect_names_the_text(server: InProcess) -> None:
    name = triton_name(server.get("/v1/models").json()["data"][0]["id"])
    for path, (body, query, passage) in BODIES.items():
        for text in (*BLANK, *UNKNOWN):
            answer = server.http.post(path.format(name), json=body(text))
            assert answer.status_code == (422 if path == "/rerank" else 400), path
            reply = json.dumps(answer.json())
            blank = query and text in BLANK
            wanted = (
                f"{query}: this text is blank" if blank else f"{passage}: this text has no tokens"
            )
            assert wanted in reply, path
    assert server.get("/v1/health/live").status_code == 200
    good = {"query": {"text": "a"}, "passages": [{"text": "d"}, {"text": "x"}]}
    assert server.rank(good).status_code == 200
