"""The rerank dialects: each its own shape, its own fields, and its own words for what is wrong."""

import math
from pathlib import Path
from typing import Any

import httpx
import pytest
import tokenizers

from runtime import opening
from server.call import Field
from server.surfaces.documents import documents_of
from tests.server.in_process import Serve
from tests.server.surfaces.dialects import (
    DOCUMENTS,
    EMBED,
    MAX_TOKENS,
    QUERY,
    SCORE,
    SIMPLE,
    TEI,
    TEXTS,
    V1,
    V2,
    assert_tei,
    assert_v2,
    good,
    logits,
)


def order(found: list[float]) -> list[int]:
    return sorted(range(len(found)), key=lambda index: -found[index])


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def tokens(texts: list[str] = TEXTS) -> int:
    return sum(len(f"question:{QUERY} \n \n passage:{text}") for text in texts)


class Characters:
    """A tokenizer that counts the characters that it is given."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.seen = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode(self, text: str, **options: Any) -> tokenizers.Encoding:
        self.seen += len(text)
        return self._tokenizer.encode(text, **options)

    def encode_batch(self, texts: list[str], **options: Any) -> list[tokenizers.Encoding]:
        self.seen += sum(map(len, texts))
        return self._tokenizer.encode_batch(texts, **options)

    def encode_batch_fast(self, texts: list[str], **options: Any) -> list[tokenizers.Encoding]:
        self.seen += sum(map(len, texts))
        return self._tokenizer.encode_batch_fast(texts, **options)


@pytest.fixture
def characters(monkeypatch: pytest.MonkeyPatch) -> Characters:
    """The mock's tokenizer, of reranker and embedder alike."""
    counting = Characters(opening.byte_tokenizer())
    monkeypatch.setattr(opening, "byte_tokenizer", lambda: counting)
    return counting


def test_simple(client: httpx.Client) -> None:
    found = good(client, SIMPLE, DOCUMENTS)
    wanted = logits(client)
    assert set(found) == {"id", "model", "usage", "results", "scores", "ranked_indices"}
    assert found["scores"] == wanted
    assert found["ranked_indices"] == order(wanted)
    assert found["usage"] == {"prompt_tokens": tokens(), "total_tokens": tokens()}
    assert [r["index"] for r in found["results"]] == order(wanted)
    for result in found["results"]:
        assert set(result) == {"index", "relevance_score", "document"}
        assert result["document"] == TEXTS[result["index"]]
        assert result["relevance_score"] == pytest.approx(sigmoid(wanted[result["index"]]))


@pytest.mark.parametrize(
    ("given", "expected"), [(True, {"text": TEXTS[0]}), (False, None), (None, TEXTS[0])]
)
def test_simple_documents_are_returned_as_requested(
    client: httpx.Client, given: bool | None, expected: Any
) -> None:
    found = good(client, SIMPLE, {**DOCUMENTS, "return_documents": given})
    result = next(r for r in found["results"] if r["index"] == 0)
    assert result.get("document") == expected
    assert ("document" in result) == (expected is not None)


def test_top_n_shortens_the_results_only(client: httpx.Client) -> None:
    found = good(client, SIMPLE, {**DOCUMENTS, "top_n": 1})
    assert len(found["results"]) == 1
    assert len(found["scores"]) == len(found["ranked_indices"]) == 3


@pytest.mark.parametrize("raw", [{"raw_scores": True}, {"use_activation": False}])
def test_simple_raw_scores(client: httpx.Client, raw: dict[str, bool]) -> None:
    found = good(client, SIMPLE, {**DOCUMENTS, **raw})
    wanted = sorted(logits(client), reverse=True)
    assert [r["relevance_score"] for r in found["results"]] == wanted


def test_every_answer_has_an_id_of_its_own(client: httpx.Client) -> None:
    ids = {good(client, path, DOCUMENTS)["id"] for path in (SIMPLE, V1, V2) for _ in range(3)}
    assert len(ids) == 9


def test_v1_is_a_superset(client: httpx.Client) -> None:
    found = good(client, V1, {**DOCUMENTS, "model": "anything", "top_n": 2})
    wanted = logits(client)
    assert set(found) == {"id", "model", "usage", "meta", "results"}
    assert found["meta"] == {"api_version": {"version": "1"}, "billed_units": {"search_units": 1}}
    assert found["usage"]["total_tokens"] == tokens()
    assert [r["index"] for r in found["results"]] == order(wanted)[:2]
    assert [r["document"] for r in found["results"]] == [
        {"text": TEXTS[index]} for index in order(wanted)[:2]
    ]


def test_a_field_that_is_named_often_is_one_text(client: httpx.Client) -> None:
    body = {"query": QUERY, "documents": [{"title": "a"}], "rank_fields": ["title"] * 9}
    assert good(client, V1, body)["results"][0]["document"] == {"text": "a"}


def test_v1_without_documents(client: httpx.Client) -> None:
    found = good(client, V1, {**DOCUMENTS, "return_documents": False})
    assert all(set(r) == {"index", "relevance_score"} for r in found["results"])


def test_v1_ranks_the_fields_that_are_named(client: httpx.Client) -> None:
    documents = [{"title": "a title", "text": "a text", "year": 1999}, "plain"]
    found = good(client, SIMPLE, {"query": QUERY, "documents": documents})
    assert found["scores"] == logits(client, ["a text", "plain"])
    body = {"query": QUERY, "documents": documents, "rank_fields": ["title", "text"]}
    texts = [r["document"]["text"] for r in good(client, V1, body)["results"]]
    assert sorted(texts) == ["a title\na text", "plain"]


def test_v2_is_cohere_s_alone(client: httpx.Client) -> None:
    found = good(client, V2, {**DOCUMENTS, "model": "rerank-v3.5", "top_n": 2})
    assert set(found) == {"id", "results", "meta"}
    assert found["meta"]["api_version"] == {"version": "2"}
    assert [set(r) for r in found["results"]] == [{"index", "relevance_score"}] * 2
    assert [r["index"] for r in found["results"]] == order(logits(client))[:2]


def test_v2_cuts_documents_at_max_tokens_per_doc(client: httpx.Client) -> None:
    body = {**DOCUMENTS, "max_tokens_per_doc": 6}
    response = client.post(V2, json=body)
    assert response.headers["x-truncated-passages"] == "1"
    wanted = [sigmoid(logit) for logit in logits(client, [text[:6] for text in TEXTS])]
    found = {r["index"]: r["relevance_score"] for r in response.json()["results"]}
    assert [found[index] for index in range(3)] == pytest.approx(wanted)


def test_a_document_that_is_cut_twice_counts_once(client: httpx.Client) -> None:
    body = {"query": QUERY, "documents": ["x" * 500, "short"], "max_tokens_per_doc": 300}
    response = client.post(V2, json=body)
    assert response.status_code == 200
    assert response.headers["x-truncated-passages"] == "1"


def test_a_document_may_begin_with_blanks(client: httpx.Client) -> None:
    body = {"query": QUERY, "documents": ["   hello"], "max_tokens_per_doc": 1}
    assert len(good(client, V2, body)["results"]) == 1
    assert "documents[0]" in assert_v2(client.post(V2, json={**body, "documents": ["  "]}), 400)


class Looked(dict[str, Any]):
    """A document that counts how often it is asked for a field."""

    times = 0

    def __getitem__(self, name: str) -> Any:
        self.times += 1
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.times += 1
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.times += 1
        return super().get(name, default)


def test_many_rank_fields_cost_a_document_no_more_than_its_own() -> None:
    document = Looked(f2="b", f1="a", g=5)
    fields = [f"f{number}" for number in range(100_000)]
    assert documents_of([document], Field("documents"), fields) == (["a\nb"], {})
    assert document.times <= 2 * len(document)


@pytest.mark.parametrize("path", [V1, V2])
def test_cohere_cuts_what_is_too_long(client: httpx.Client, path: str) -> None:
    response = client.post(path, json={"query": QUERY, "documents": ["short", "x" * 500]})
    assert response.status_code == 200
    assert response.headers["x-truncated-passages"] == "1"


@pytest.mark.parametrize("path", [SCORE, "/v1/score"])
@pytest.mark.parametrize(
    "names",
    [
        ("text_1", "text_2"),
        ("queries", "documents"),
        ("queries", "items"),
        ("data_1", "data_2"),
    ],
)
def test_score_one_to_many(client: httpx.Client, path: str, names: tuple[str, str]) -> None:
    found = good(client, path, {names[0]: QUERY, names[1]: TEXTS, "model": "x"})
    assert set(found) == {"id", "object", "created", "model", "data", "usage"}
    assert [d["index"] for d in found["data"]] == [0, 1, 2]
    wanted = [sigmoid(logit) for logit in logits(client)]
    assert [d["score"] for d in found["data"]] == pytest.approx(wanted)
    assert found["usage"]["total_tokens"] == tokens()


def test_score_pairs_each_with_each(client: httpx.Client) -> None:
    queries = ["one", "two", "one"]
    body = {"text_1": queries, "text_2": TEXTS, "use_activation": False}
    found = [d["score"] for d in good(client, SCORE, body)["data"]]
    pairs = zip(queries, TEXTS, strict=True)
    assert found == [logits(client, [text], query)[0] for query, text in pairs]


@pytest.mark.parametrize("path", [SIMPLE, V1])
@pytest.mark.parametrize("tokens_said", [-1, MAX_TOKENS])
def test_texts_are_cut_where_requested(client: httpx.Client, path: str, tokens_said: int) -> None:
    room = MAX_TOKENS - len(f"question:{QUERY} \n \n passage:")
    body = {
        "query": QUERY,
        "documents": ["a" * room + "b" * room],
        "truncate_prompt_tokens": tokens_said,
        "use_activation": False,
    }
    for given, kept in ({}, "a"), ({"truncate": "NONE"}, "a"), ({"truncate": "START"}, "b"):
        found = good(client, path, {**body, **given})["results"][0]["relevance_score"]
        assert found == logits(client, [kept * room])[0]


def test_score_one_to_one(client: httpx.Client) -> None:
    found = good(client, SCORE, {"text_1": QUERY, "text_2": TEXTS[0]})
    assert len(found["data"]) == 1


@pytest.mark.parametrize("raw", [False, True])
def test_tei_is_a_bare_list(client: httpx.Client, raw: bool) -> None:
    found = good(client, SIMPLE, {**TEI, "raw_scores": raw})
    wanted = logits(client)
    assert [r["index"] for r in found] == order(wanted)
    assert all(set(r) == {"index", "score"} for r in found)
    scores = [wanted[i] if raw else sigmoid(wanted[i]) for i in order(wanted)]
    assert [r["score"] for r in found] == pytest.approx(scores)


@pytest.mark.parametrize("null", [{"documents": None}, {"model": None, "documents": None}])
def test_null_documents_are_none(client: httpx.Client, null: dict[str, None]) -> None:
    assert len(good(client, SIMPLE, {**TEI, **null})) == 3


def test_null_texts_are_none(client: httpx.Client) -> None:
    assert "scores" in good(client, SIMPLE, {**DOCUMENTS, "texts": None})


def test_tei_returns_texts(client: httpx.Client) -> None:
    found = good(client, SIMPLE, {**TEI, "return_text": True})
    assert all(r["text"] == TEXTS[r["index"]] for r in found)


@pytest.mark.parametrize(
    ("direction", "kept"), [({}, "a"), ({"truncation_direction": "Left"}, "b")]
)
def test_tei_truncates(client: httpx.Client, direction: dict[str, str], kept: str) -> None:
    room = MAX_TOKENS - len(f"question:{QUERY} \n \n passage:")
    long = "a" * room + "b" * room
    body = {"query": QUERY, "texts": [long], "raw_scores": True, "truncate": True, **direction}
    assert good(client, SIMPLE, body)[0]["score"] == logits(client, [kept * room])[0]


def test_embed(client: httpx.Client) -> None:
    body = {"inputs": TEXTS, "prompt_name": "query", "dimensions": 8}
    wanted = client.post(
        "/v1/embeddings", json={"input": TEXTS, "input_type": "query", "dimensions": 8}
    ).json()["data"]
    assert good(client, EMBED, body) == [item["embedding"] for item in wanted]
    assert len(good(client, EMBED, {"inputs": "one", "prompt_name": "passage"})) == 1


def test_tokenize(client: httpx.Client) -> None:
    found = good(client, "/tokenize", {"inputs": ["aé", "b"]})
    first = found[0][0]
    assert set(first) == {"id", "text", "special", "start", "stop"}
    assert (first["text"], first["special"], first["start"], first["stop"]) == ("a", False, 0, 1)
    assert [len(tokens) for tokens in found] == [3, 1]


def test_vast_texts_are_not_tokenized(serve: Serve, characters: Characters) -> None:
    server = serve({"ENABLE_MOCK_INFERENCE": "1"})
    before = characters.seen
    response = server.http.post("/tokenize", json={"inputs": ["x" * (1 << 19)] * 3})
    assert "1048576" in assert_tei(response, 422)
    assert characters.seen == before


@pytest.mark.parametrize(
    ("documents", "tokens"), [(["x " * 1_000_000], 10**9), (["x" * 200_000] * 10, 5)]
)
def test_of_vast_documents_only_the_beginning_is_tokenized(
    serve: Serve, characters: Characters, documents: list[str], tokens: int
) -> None:
    """However many tokens are asked for: those that the model cannot take are not looked for."""
    server = serve({"ENABLE_MOCK_INFERENCE": "1", "MAX_SEQUENCE_LENGTH": str(MAX_TOKENS)})
    before = characters.seen
    body = {"query": QUERY, "documents": documents, "max_tokens_per_doc": tokens}
    response = server.http.post(V2, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["x-truncated-passages"] == str(len(documents))
    assert characters.seen - before < 20_000  # of two million


def test_an_embedder_s_own_limit_counts_texts_to_tokenize(
    serve: Serve, embed_artifact: Path
) -> None:
    server = serve({"EMBED_MODEL_DIR": str(embed_artifact), "EMBED_MAX_INPUTS": "70"})
    assert len(good(server.http, "/tokenize", {"inputs": ["a"] * 65})) == 65
    refused = assert_tei(server.http.post("/tokenize", json={"inputs": ["a"] * 71}), 422)
    assert "EMBED_MAX_INPUTS" in refused


def test_info(client: httpx.Client) -> None:
    found = client.get("/info").json()
    assert found["model_id"] == "nvidia/llama-nemotron-rerank-1b-v2"
    assert found["max_input_length"] == MAX_TOKENS
    assert found["max_client_batch_size"] == 64
    assert set(found["model_type"]) == {"reranker"}
