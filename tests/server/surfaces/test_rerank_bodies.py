"""Where dialects share a path, the body says whose it is, and each field does what its server
does."""

from typing import Any

import httpx
import pytest

from tests.server.surfaces.test_dialects import MAX_TOKENS, logits, order, sigmoid

QUERY = "which one?"
TEXTS = ["first", "second, a little longer", "third"]
PATHS = ("/rerank", "/v1/rerank")
DOCUMENTS = {"query": QUERY, "documents": TEXTS}
LOGITS = {"use_activation": False}
FRAME = len("question: \n \n passage:")
ROOM = MAX_TOKENS - FRAME - len(QUERY)


def ask(client: httpx.Client, path: str, **body: Any) -> httpx.Response:
    return client.post(path, json=body)


def scores(response: httpx.Response) -> list[float]:
    """By document, whichever shape they come in."""
    assert response.status_code == 200, response.text
    found = response.json()
    if "data" in found:
        return [each["score"] for each in found["data"]]
    results = sorted(found["results"], key=lambda result: result["index"])
    return [result["relevance_score"] for result in results]


def ask_score(client: httpx.Client, path: str, documents: list[str], **fields: Any) -> Any:
    named = ("text_1", "text_2") if "score" in path else ("query", "documents")
    return client.post(path, json={named[0]: QUERY, named[1]: documents, **fields})


# Where texts are cut

ALL_PATHS = (*PATHS, "/score", "/v1/score")


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize("side", [{}, {"truncation_side": "left"}])
def test_the_first_tokens_of_a_text_are_kept(
    client: httpx.Client, path: str, side: dict[str, str]
) -> None:
    """As vLLM does it: the side is that of truncate_prompt_tokens only."""
    found = ask_score(client, path, TEXTS, max_tokens_per_doc=6, **LOGITS, **side)
    assert scores(found) == logits(client, [text[:6] for text in TEXTS])
    assert found.headers["x-truncated-passages"] == "1"
    found = ask_score(client, path, TEXTS, max_tokens_per_query=2, **LOGITS, **side)
    assert scores(found) == logits(client, TEXTS, QUERY[:2])
    both = {"max_tokens_per_query": "2", "max_tokens_per_doc": 4.0}
    found = ask_score(client, path, TEXTS, **both, **LOGITS, **side)
    assert scores(found) == logits(client, [text[:4] for text in TEXTS], QUERY[:2])


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize(
    ("side", "kept"), [({}, slice(0, 3)), ({"truncation_side": "left"}, slice(-3, None))]
)
def test_a_pair_is_cut_at_any_length(
    client: httpx.Client, path: str, side: dict[str, str], kept: slice
) -> None:
    tokens = FRAME + len(QUERY) + 3
    found = ask_score(client, path, TEXTS, truncate_prompt_tokens=tokens, **LOGITS, **side)
    assert scores(found) == logits(client, [text[kept] for text in TEXTS])
    assert found.headers["x-truncated-passages"] == "3"


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize("tokens", [-1, MAX_TOKENS, str(MAX_TOKENS)])
@pytest.mark.parametrize(("side", "kept"), [("right", "a"), ("left", "b")])
def test_a_pair_is_cut_at_the_model_s_bound(
    client: httpx.Client, path: str, tokens: Any, side: str, kept: str
) -> None:
    fields = {"truncate_prompt_tokens": tokens, "truncation_side": side, **LOGITS}
    found = ask_score(client, path, ["a" * ROOM + "b" * ROOM], **fields)
    assert scores(found) == logits(client, [kept * ROOM])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cut", [{"truncation": True}, {"truncate_prompt_tokens": -1}])
def test_the_side_counts_wherever_texts_are_cut(
    client: httpx.Client, path: str, cut: dict[str, Any]
) -> None:
    body = {"query": QUERY, "documents": ["a" * ROOM + "b" * ROOM], "truncation_side": "left"}
    assert scores(ask(client, path, **body, **cut, **LOGITS)) == logits(client, ["b" * ROOM])
    assert client.post(path, json=body).status_code == 422


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize("zero", [{"max_tokens_per_doc": 0}, {"max_tokens_per_query": 0}])
def test_zero_is_no_limit(client: httpx.Client, path: str, zero: dict[str, int]) -> None:
    assert scores(ask_score(client, path, TEXTS, **zero, **LOGITS)) == logits(client)


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize(
    "wrong",
    [
        {"truncation_side": "middle"},
        {"truncation_side": "LEFT"},
        {"truncate_prompt_tokens": 0},
        {"truncate_prompt_tokens": -2},
        {"truncate_prompt_tokens": MAX_TOKENS + 1},
        {"truncate_prompt_tokens": 5.5},
        {"max_tokens_per_doc": -1},
        {"max_tokens_per_doc": MAX_TOKENS},
        {"max_tokens_per_query": -1},
        {"max_tokens_per_query": 10**30},
        {"padding": "max_length"},
        {"priority": 2**63},
        {"priority": "first"},
        {"cache_salt": ""},
        {"cache_salt": "x" * 1025},
        {"instruction": "Find the answer."},
        {"chat_template_kwargs": {"instruction": "Find the answer."}},
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    client: httpx.Client, path: str, wrong: dict[str, Any]
) -> None:
    response = ask_score(client, path, TEXTS, **wrong)
    assert response.status_code == 400
    (name,) = wrong
    assert response.json()["error"]["message"].startswith(f"{name}: ")
    assert "Find" not in response.text


FIELDS_THAT_DIFFER = [
    {"truncate": "START", "truncation_side": "right"},
    {"truncate": "END", "truncation_side": "left"},
    {"truncate": "END", "truncation": False},
    {"truncate": "NONE", "truncation": True},
]
FIELDS_THAT_AGREE = [
    {"truncate": "START", "truncation_side": "left"},
    {"truncate": "END", "truncation": True, "truncate_prompt_tokens": 40},
    {"truncate": "NONE", "truncation": False, "truncation_side": "left"},
    {"truncate": "NONE", "truncate_prompt_tokens": 40},
    {"truncation": True, "truncation_side": "left"},
]


def differ(response: httpx.Response, fields: dict[str, Any]) -> None:
    assert response.status_code == 400
    *_, last = fields
    assert response.json()["message"] == f"{last}: found two names of one field that differ"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "fields",
    [
        *FIELDS_THAT_DIFFER,
        {"use_activation": True, "raw_scores": True},
        {"use_activation": False, "raw_scores": False},
        {"activation": True, "raw_scores": True},
    ],
)
def test_fields_that_differ_are_refused(
    client: httpx.Client, path: str, fields: dict[str, Any]
) -> None:
    differ(ask(client, path, **DOCUMENTS, **fields), fields)


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize(
    "fields",
    [
        {"use_activation": True, "activation": False},
        {"use_activation": False, "softmax": True},
        {"activation": False, "softmax": True},
    ],
)
def test_old_and_new_names_that_differ_are_refused(
    client: httpx.Client, path: str, fields: dict[str, Any]
) -> None:
    response = ask_score(client, path, TEXTS, **fields)
    assert response.status_code == 400
    assert "differ" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "fields",
    [
        *FIELDS_THAT_AGREE,
        {"use_activation": False, "activation": "off", "softmax": 0, "raw_scores": True},
        {"use_activation": True, "activation": True, "raw_scores": False},
    ],
)
def test_fields_that_agree_are_taken(
    client: httpx.Client, path: str, fields: dict[str, Any]
) -> None:
    assert len(scores(ask(client, path, **DOCUMENTS, **fields))) == 3


def test_jina_s_lengths_and_vllm_s_hold_together(client: httpx.Client) -> None:
    limits = {"max_doc_length": 9, "max_tokens_per_doc": 6, "max_query_length": 3}
    found = ask(client, "/v1/rerank", **DOCUMENTS, **limits, **LOGITS)
    assert scores(found) == logits(client, [text[:6] for text in TEXTS], QUERY[:3])


@pytest.mark.parametrize("path", PATHS)
def test_truncation_false_refuses_what_is_too_long(client: httpx.Client, path: str) -> None:
    body = {"query": QUERY, "documents": ["x" * 300]}
    assert ask(client, path, **body, truncation=False).status_code == 422
    assert ask(client, path, **body, truncation=True).status_code == 200
    assert ask(client, path, **body, truncation=True, truncate="START").status_code == 200


# Whose body it is

VLLM = {
    "vllm": {"truncate_prompt_tokens": -1},
    "vllm, all": {"top_n": 0},
    "vllm, of litellm": {"max_tokens_per_doc": 100, "return_documents": True},
}
PLAIN, OBJECT, NOTHING = "a", {"text": "a"}, None


@pytest.mark.parametrize(
    ("fields", "simple", "v1"),
    [
        ({}, PLAIN, OBJECT),
        ({"model": "m", "top_n": 1}, PLAIN, OBJECT),
        ({"return_documents": None, "raw_scores": None}, PLAIN, OBJECT),
        ({"return_documents": True}, OBJECT, OBJECT),
        ({"return_documents": "true"}, OBJECT, OBJECT),
        ({"return_documents": False}, NOTHING, NOTHING),
        ({"raw_scores": False}, NOTHING, NOTHING),
        ({"raw_scores": True, "return_documents": True}, PLAIN, PLAIN),
        ({"raw_scores": False, "return_documents": False}, NOTHING, NOTHING),
        *((fields, OBJECT, OBJECT) for fields in VLLM.values()),
        ({"use_activation": False, "return_documents": False}, NOTHING, NOTHING),
    ],
)
def test_a_document_is_shown_as_its_dialect_does(
    client: httpx.Client, fields: dict[str, Any], simple: Any, v1: Any
) -> None:
    for path, wanted in zip(PATHS, (simple, v1), strict=True):
        response = ask(client, path, query=QUERY, documents=["a"], **fields)
        (result,) = response.json()["results"]
        assert result.get("document") == wanted
        assert ("document" in result) == (wanted is not None)


@pytest.mark.parametrize("path", PATHS)
def test_one_text_alone_is_vllm_s(client: httpx.Client, path: str) -> None:
    """Which takes it as a list of one; no other server of this path does."""
    found = ask(client, path, query=QUERY, documents=TEXTS[1], **LOGITS)
    assert scores(found) == logits(client, TEXTS[1:2])
    (result,) = ask(client, path, query=QUERY, documents="a").json()["results"]
    assert result["document"] == OBJECT
    assert len(scores(ask(client, path, query=QUERY, documents=""))) == 1
    units = ask(client, path, query=QUERY, documents="a" * 101).json().get("meta")
    assert units is None or units["billed_units"]["search_units"] == 1
    limit = ask(client, path, query=QUERY, documents="a", truncate_prompt_tokens=9).json()
    assert len(limit["results"]) == 1
    for wrong in ({"text": "a"}, 1, [["a"]]):
        assert ask(client, path, query=QUERY, documents=wrong).status_code == 400


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("whose", [*VLLM.values(), {"documents": "x" * 300}])
def test_vllm_refuses_what_is_too_long(
    client: httpx.Client, path: str, whose: dict[str, Any]
) -> None:
    """Unless it is told to cut; Cohere and Jina always cut."""
    body = {"query": QUERY, "documents": ["x" * 300], **whose}
    cut = "truncate_prompt_tokens" in whose or "max_tokens_per_doc" in whose
    assert ask(client, path, **body).status_code == (200 if cut else 422)
    assert ask(client, path, **body, truncate="END").status_code == 200
    assert ask(client, path, **{**body, "truncate_prompt_tokens": -1}).status_code == 200
    plain = ask(client, path, query=QUERY, documents=["x" * 300])
    assert plain.status_code == (200 if path == "/v1/rerank" else 422)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("zero", [0, 0.0, "0"])
def test_no_top_n_is_all_of_vllm_s(client: httpx.Client, path: str, zero: Any) -> None:
    found = ask(client, path, **DOCUMENTS, top_n=zero).json()["results"]
    assert [result["index"] for result in found] == order(logits(client))
    refused = ask(client, path, **DOCUMENTS, top_n=zero, raw_scores=False)
    assert refused.status_code == 400
    assert "top_n" in refused.json()["message"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("whose", [{"max_tokens_per_doc": 0}, {"raw_scores": False}])
def test_vllm_and_infinity_take_blank_texts(
    client: httpx.Client, path: str, whose: dict[str, Any]
) -> None:
    assert len(scores(ask(client, path, query=QUERY, documents=["", "a"], **whose))) == 2
    assert len(scores(ask(client, path, query=" ", documents=["a"], **whose))) == 1
    assert len(scores(ask(client, path, query="", documents=["a", "\u200b", ""], **whose))) == 3
    assert ask(client, path, query=QUERY, documents=["", "a"]).status_code == 400


def test_a_blank_side_is_scored_as_it_is(client: httpx.Client) -> None:
    body = {"text_1": ["", "a"], "text_2": ["b", "\u200b"], **LOGITS}
    first, second = scores(client.post("/score", json=body))
    assert first == scores(ask(client, "/rerank", query="", documents=["b"], **LOGITS))[0]
    assert second == scores(ask(client, "/rerank", query="a", documents=["\u200b"], **LOGITS))[0]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "raw",
    [
        {"raw_scores": True},
        {"raw_scores": "yes"},
        {"raw_scores": 1},
        {"use_activation": "off"},
        {"activation": False},
        {"softmax": 0},
    ],
)
def test_logits_are_given_when_requested(
    client: httpx.Client, path: str, raw: dict[str, Any]
) -> None:
    assert scores(ask(client, path, **DOCUMENTS, **raw)) == logits(client)


@pytest.mark.parametrize("path", ALL_PATHS)
def test_a_request_s_id_is_its_answer_s(client: httpx.Client, path: str) -> None:
    assert ask_score(client, path, TEXTS, request_id="mine").json()["id"] == "mine"


# Bodies that clients send


@pytest.mark.parametrize(
    ("path", "body"),
    [
        # RAGFlow's provider for Xinference
        ("/v1/rerank", {"model": "m", "return_documents": "true", "return_len": "true"}),
        # litellm 1.110 as hosted_vllm, cohere, jina_ai, infinity
        ("/rerank", {"model": "m", "return_documents": True, "max_tokens_per_doc": 100}),
        ("/rerank", {"model": "m", "rank_fields": ["text"], "truncation_side": "left"}),
        ("/v1/rerank", {"model": "m", "top_n": 3, "return_documents": True}),
        # infinity_client 0.0.76: all fields, with their defaults
        (
            "/rerank",
            {"return_documents": False, "raw_scores": False, "model": "default/not-specified"},
        ),
        # WeKnora for GPUStack and vLLM
        ("/v1/rerank", {"model": "m", "truncate_prompt_tokens": 180}),
        # Dify for OpenAI-compatible servers; open-webui
        ("/v1/rerank", {"model": "m", "top_n": 3, "return_documents": False}),
        ("/rerank", {"model": "m", "top_n": 3}),
        # vLLM's own tests
        ("/rerank", {"model": "m", "truncate_prompt_tokens": 100, "use_activation": True}),
        ("/v1/rerank", {"model": "m", "user": "me", "priority": 0, "mm_processor_kwargs": {}}),
    ],
)
def test_other_people_s_bodies(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    wanted = [sigmoid(logit) for logit in logits(client)]
    assert scores(ask(client, path, **DOCUMENTS, **body)) == pytest.approx(wanted)


# Numbers that JSON has and others have not


@pytest.mark.parametrize("path", [*PATHS, "/v2/rerank"])
@pytest.mark.parametrize(
    ("number", "named"),
    [
        ("1e400", "top_n: "),
        ("-1e400", "top_n: "),
        ("9" * 5000, "top_n: "),
        ("NaN", "the body: "),
        ("-Infinity", "the body: "),
    ],
)
def test_numbers_out_of_range_are_refused(
    client: httpx.Client, path: str, number: str, named: str
) -> None:
    body = f'{{"query":"q","documents":["a"],"top_n":{number}}}'
    headers = {"content-type": "application/json"}
    response = client.post(path, content=body, headers=headers)
    assert response.status_code == 400
    assert response.json()["message"].startswith(named)
    assert "9999" not in response.text


@pytest.mark.parametrize("path", [*PATHS, "/v2/rerank"])
def test_more_than_a_machine_s_whole_numbers_is_all(client: httpx.Client, path: str) -> None:
    assert len(ask(client, path, **DOCUMENTS, top_n=10**30).json()["results"]) == 3
