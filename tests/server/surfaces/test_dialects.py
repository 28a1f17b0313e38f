"""The rerank dialects: each its own shape, its own fields, and its own words for what is wrong."""

import math
from pathlib import Path
from typing import Any

import httpx
import pytest
import tokenizers

from runtime import opening
from server.surfaces.documents import texts_of
from tests.server.in_process import InProcess, Serve

QUERY = "which one?"
TEXTS = ["first", "second, a little longer", "third"]
MAX_TOKENS = 200  # of the mock server, see conftest
DOCUMENTS = {"query": QUERY, "documents": TEXTS}
SIMPLE, V1, V2, SCORE, EMBED = "/rerank", "/v1/rerank", "/v2/rerank", "/score", "/embed"
TEI = {"query": QUERY, "texts": TEXTS}


def logits(client: httpx.Client, texts: list[str] = TEXTS, query: str = QUERY) -> list[float]:
    """What the NIM's surface says, in the order of the texts."""
    body = {"query": {"text": query}, "passages": [{"text": text} for text in texts]}
    rankings = client.post("/v1/ranking", json=body).json()["rankings"]
    return [r["logit"] for r in sorted(rankings, key=lambda r: r["index"])]


def order(found: list[float]) -> list[int]:
    return sorted(range(len(found)), key=lambda index: -found[index])


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def good(client: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


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


# POST /rerank with documents


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


# Cohere, Jina, vLLM


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
    assert texts_of([document], fields) == ["a\nb"]
    assert document.times <= 2 * len(document)


@pytest.mark.parametrize("path", [V1, V2])
def test_cohere_cuts_what_is_too_long(client: httpx.Client, path: str) -> None:
    response = client.post(path, json={"query": QUERY, "documents": ["short", "x" * 500]})
    assert response.status_code == 200
    assert response.headers["x-truncated-passages"] == "1"


# vLLM's scores


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


# TEI


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


# What is wrong


def assert_superset(response: httpx.Response, status: int) -> str:
    found = response.json()
    assert response.status_code == status, response.text
    assert set(found) == {"message", "detail", "error"}
    assert set(found["error"]) == {"message", "type", "code"}
    assert found["message"] == found["detail"] == found["error"]["message"]
    assert found["error"]["code"] == status
    return str(found["message"])


def assert_v2(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"message"}
    return str(response.json()["message"])


def assert_vllm(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    assert set(response.json()["error"]) == {"message", "type", "code"}
    return str(response.json()["error"]["message"])


def assert_tei(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error", "error_type"}
    return str(response.json()["error"])


ERROR_BODIES = {
    SIMPLE: assert_superset,
    V1: assert_superset,
    V2: assert_v2,
    SCORE: assert_vllm,
    "/v1/score": assert_vllm,
    EMBED: assert_tei,
    "/tokenize": assert_tei,
}
WRONG_DOCUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"top_n": -1}, "top_n"),
    ({"top_n": "one"}, "top_n"),
    ({"top_n": 1.5}, "top_n"),
    ({"documents": []}, "documents"),
    ({"documents": {"a": "b"}}, "documents"),
    ({"documents": ["a", 1]}, "documents[1]"),
    ({"documents": ["a", None]}, "documents[1]"),
    ({"documents": [["a"]]}, "documents[0]"),
    ({"documents": ["a", ""]}, "documents[1]"),
    ({"documents": ["a"] * 65}, "RERANK_MAX_PASSAGES"),
    ({"documents": None}, "documents"),
    ({"query": ""}, "query"),
    ({"query": " \n"}, "query"),
    ({"query": None}, "query"),
    ({"query": {"text": "a"}}, "query"),
    ({"query": ["a"]}, "query"),
]


@pytest.mark.parametrize("path", [SIMPLE, V1, V2])
@pytest.mark.parametrize(("wrong", "named"), WRONG_DOCUMENTS)
def test_wrong_documents(
    client: httpx.Client, path: str, wrong: dict[str, Any], named: str
) -> None:
    message = ERROR_BODIES[path](client.post(path, json={**DOCUMENTS, **wrong}), 400)
    assert named in message


@pytest.mark.parametrize(
    ("path", "wrong", "named"),
    [
        (SIMPLE, {"documents": [{"title": "a"}]}, "documents[0]"),
        (SIMPLE, {"documents": [{"text": 5}]}, "documents[0]"),
        (SIMPLE, {"truncate": "MIDDLE"}, "truncate"),
        (SIMPLE, {"return_documents": "perhaps"}, "return_documents"),
        (SIMPLE, {"texts": ["a"]}, "`documents` and `texts`"),
        (SIMPLE, {"documents": None, "texts": None}, "documents"),
        # What a body may hold is counted before it is looked at.
        (SIMPLE, {"documents": [{"title": "a"}] * 65}, "RERANK_MAX_PASSAGES"),
        (V1, {"documents": [{"title": "a"}] * 65}, "RERANK_MAX_PASSAGES"),
        (V1, {"rank_fields": "title"}, "rank_fields"),
        (V1, {"rank_fields": ["year"], "documents": [{"year": 1999}]}, "documents[0]"),
        (V1, {"documents": [{"image": "https://a.example/b.png"}]}, "documents[0].image"),
        (SIMPLE, {"documents": ["a", {"content": []}]}, "documents[1].content"),
        (V2, {"max_tokens_per_doc": 0}, "max_tokens_per_doc"),
        # Cohere's own server reads no number out of a text, and 1 is its least.
        (V2, {"top_n": 0}, "top_n"),
        (V2, {"top_n": "2"}, "top_n"),
        (V2, {"top_n": True}, "top_n"),
        (V2, {"documents": [{"text": "a"}]}, "documents[0]"),
        (V2, {"documents": "text"}, "documents"),
    ],
)
def test_wrong_fields(client: httpx.Client, path: str, wrong: dict[str, Any], named: str) -> None:
    assert named in ERROR_BODIES[path](client.post(path, json={**DOCUMENTS, **wrong}), 400)


@pytest.mark.parametrize("top_n", [3, 4, 10**9])
@pytest.mark.parametrize("path", [SIMPLE, V1, V2])
def test_more_than_there_are_is_all(client: httpx.Client, path: str, top_n: int) -> None:
    assert len(good(client, path, {**DOCUMENTS, "top_n": top_n})["results"]) == 3


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "text_1"),
        ({"text_1": "a"}, "text_2"),
        ({"documents": ["a"]}, "queries"),
        ({"text_1": ["a", "b"], "text_2": ["c"]}, "text_2"),
        ({"text_1": ["a", "b"], "text_2": "c"}, "text_2"),
        ({"text_1": [], "text_2": ["c"]}, "text_2"),
        ({"text_1": "a", "text_2": []}, "text_2"),
        ({"text_1": "a", "text_2": [1]}, "text_2[0]"),
        ({"queries": "a", "items": None}, "documents"),
        ({"data_2": "a"}, "data_1"),
        ({"text_1": "a", "text_2": "b", "items": ["c"]}, "items"),
        ({"queries": "a", "documents": "b", "items": ["c"]}, "items"),
        ({"text_1": "a", "text_2": {"content": []}}, "text_2"),
        ({"text_1": "a", "text_2": ["c"] * 65}, "RERANK_MAX_PASSAGES"),
    ],
)
def test_wrong_scores(client: httpx.Client, body: dict[str, Any], named: str) -> None:
    assert named in assert_vllm(client.post(SCORE, json=body), 400)


def test_a_text_is_named_where_it_stands(client: httpx.Client) -> None:
    body = {"data_1": "a", "data_2": ["c", 1]}
    assert assert_vllm(client.post(SCORE, json=body), 400).startswith("data_2[1]: ")


@pytest.mark.parametrize(
    "body",
    [
        {"text_1": " ", "text_2": ["", "\u200b"]},
        {"text_1": ["a", ""], "text_2": ["", " "]},
        {"queries": [""], "items": ["", "b"]},
    ],
)
def test_blank_pairs_are_scored(client: httpx.Client, body: dict[str, Any]) -> None:
    assert len(good(client, SCORE, body)["data"]) == 2


@pytest.mark.parametrize(
    ("path", "inputs", "place"),
    [
        (path, inputs, place)
        for path in (EMBED, "/tokenize")
        for inputs, place in ((["a", ""], "inputs[1]"), ([""], "inputs[0]"), ("", "inputs"))
    ],
)
def test_an_input_is_named_where_it_stands(
    client: httpx.Client, path: str, inputs: str | list[str], place: str
) -> None:
    response = client.post(path, json={"inputs": inputs, "prompt_name": "query"})
    assert assert_tei(response, 400).startswith(f"{place}: ")


def test_what_is_missing_is_named_in_tei_s_words(client: httpx.Client) -> None:
    message = assert_tei(client.post(EMBED, json={"inputs": "abc"}), 422)
    assert message.startswith("prompt_name: ")
    assert message.endswith("query, passage, document")
    assert "input_type" not in message


@pytest.mark.parametrize(
    ("wrong", "status", "kind"),
    [
        ({"texts": []}, 400, "Empty"),
        ({"texts": ["a", 1]}, 422, "Validation"),
        ({"texts": "a"}, 422, "Validation"),
        ({"texts": ["x" * 300]}, 422, "Validation"),
        ({"texts": ["a"] * 65}, 422, "Validation"),
        ({"query": "", "texts": [""]}, 400, "Empty"),
        ({"truncation_direction": "up"}, 422, "Validation"),
        ({"raw_scores": "yes"}, 422, "Validation"),
    ],
)
def test_wrong_texts(client: httpx.Client, wrong: dict[str, Any], status: int, kind: str) -> None:
    response = client.post(SIMPLE, json={**TEI, **wrong})
    assert_tei(response, status)
    assert response.json()["error_type"] == kind


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (EMBED, {"inputs": []}, 400),
        (EMBED, {"inputs": ["a"]}, 422),  # an asymmetric model without prompt_name
        (EMBED, {"inputs": [1, 2], "prompt_name": "query"}, 422),
        (EMBED, {"inputs": "a", "prompt_name": "poem"}, 422),
        (EMBED, {"inputs": "a", "prompt_name": "query", "normalize": False}, 422),
        (EMBED, {"inputs": "a", "prompt_name": "query", "dimensions": 0}, 422),
        (EMBED, {"inputs": "x" * 300, "prompt_name": "query"}, 422),
        ("/tokenize", {"inputs": []}, 400),
        ("/tokenize", {"inputs": [""]}, 400),
        ("/tokenize", {"inputs": [5]}, 422),
    ],
)
def test_wrong_inputs(client: httpx.Client, path: str, body: dict[str, Any], status: int) -> None:
    assert_tei(client.post(path, json=body), status)


@pytest.mark.parametrize("path", [SIMPLE, SCORE])
def test_too_long_has_the_nim_s_message(client: httpx.Client, path: str) -> None:
    body = {"query": QUERY, "documents": ["x" * 300]}
    if path == SCORE:
        body = {"text_1": QUERY, "text_2": ["x" * 300]}
    assert "exceeds maximum allowed token size" in ERROR_BODIES[path](
        client.post(path, json=body), 422
    )


@pytest.mark.parametrize("path", list(ERROR_BODIES))
@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b"[" * 5000])
def test_bodies_that_are_no_request(client: httpx.Client, path: str, raw: bytes) -> None:
    response = client.post(path, content=raw, headers={"content-type": "application/json"})
    ERROR_BODIES[path](response, 422 if ERROR_BODIES[path] is assert_tei else 400)


@pytest.mark.parametrize("path", list(ERROR_BODIES))
def test_other_methods_and_types_have_the_same_error_body(client: httpx.Client, path: str) -> None:
    ERROR_BODIES[path](client.get(path), 405)
    response = client.post(path, content=b"a=b", headers={"content-type": "text/plain"})
    ERROR_BODIES[path](response, 415)


@pytest.mark.parametrize("path", list(ERROR_BODIES))
def test_keys_are_asked_for_with_the_same_error_body(guarded: InProcess, path: str) -> None:
    ERROR_BODIES[path](guarded.http.post(path, json={}), 401)


def test_an_engine_that_fails_is_tei_s_backend(serve: Serve, bare_directory: Path) -> None:
    server = serve({"NIM_CUSTOM_MODEL": str(bare_directory)})
    text = "x" * 400  # longer than the table of the engine
    response = server.http.post(SIMPLE, json={"query": "q", "texts": [text]})
    assert_tei(response, 424)
    assert response.json()["error_type"] == "Backend"
    assert_superset(server.http.post(SIMPLE, json={"query": "q", "documents": [text]}), 500)
    assert server.http.post(SIMPLE, json=TEI).status_code == 200
