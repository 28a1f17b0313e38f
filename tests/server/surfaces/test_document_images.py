"""Documents with images in the rerank dialects: forms, what is shown, and what is refused where."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server.in_process import InProcess
from tests.server.surfaces.dialects import (
    SCORE,
    SIMPLE,
    V1,
    V2,
    assert_superset,
    assert_v2,
    assert_vllm,
    good,
)
from tests.server.surfaces.images import FIVE, ONE, THREE, bare, data_url
from tests.tiny_vision import png

IMAGE = {"image": bare(ONE)}


def part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


@pytest.fixture
def client(vision_server: InProcess) -> Iterator[httpx.Client]:
    """Proves, after each test, that the next request works."""
    yield vision_server.http
    good(vision_server.http, SIMPLE, {"query": "q", "documents": [IMAGE]})


def scores(client: httpx.Client, *documents: Any, **more: Any) -> list[float]:
    body = {"query": "q", "documents": list(documents), **more}
    found: list[float] = good(client, SIMPLE, body)["scores"]
    return found


def test_the_forms_of_one_document(client: httpx.Client) -> None:
    parts = [part(data_url(ONE)), text("two"), text("lines")]
    forms: list[Any] = [
        {"text": "two\nlines", **IMAGE},
        {"content": parts},
        {"content": parts[1:] + parts[:1]},
        {"content": [{"type": "image_url", "image_url": bare(ONE)}, text("two\nlines")]},
    ]
    found = scores(client, *forms)
    assert found == pytest.approx([found[0]] * len(forms), abs=1e-6)
    alone = scores(client, "words", {"content": "words"}, {"content": [text("words")]})
    assert alone == pytest.approx([alone[0]] * 3, abs=1e-6)


def test_one_document_needs_no_list(client: httpx.Client) -> None:
    many = scores(client, {"content": [part(data_url(ONE))]})
    body = {"query": "q", "documents": {"content": [part(data_url(ONE))]}}
    assert good(client, SIMPLE, body)["scores"] == pytest.approx(many)
    pair = {"text_1": "q", "text_2": {"content": [part(data_url(ONE))]}, "use_activation": False}
    assert good(client, SCORE, pair)["data"][0]["score"] == pytest.approx(many[0])


@pytest.mark.parametrize("more", [IMAGE, {"content": [part(data_url(ONE))]}])
@pytest.mark.parametrize("fields", [["title"], ["title", "image"]])
def test_rank_fields_do_not_lose_an_image(
    client: httpx.Client, more: dict[str, Any], fields: list[str]
) -> None:
    body = {"query": "q", "documents": ["a", {"title": "words", **more}], "rank_fields": fields}
    for path in (SIMPLE, V1):
        found = assert_superset(client.post(path, json=body), 400)
        assert "documents[1]: rank_fields rank texts" in found


def test_a_text_named_content_is_no_image(client: httpx.Client) -> None:
    documents = [{"text": "words", "content": "more"}, {"text": "words", "content": [1, 2]}]
    with_image = [{"text": "a", **IMAGE, "content": "more"}, {"text": "a", **IMAGE}]
    found = scores(client, "words", *documents, *with_image, {"text": None, **IMAGE}, IMAGE)
    assert found[:3] == pytest.approx([found[0]] * 3)
    assert found[3] == pytest.approx(found[4])
    assert found[5] == pytest.approx(found[6])


@pytest.mark.parametrize("path", [SIMPLE, V1])
def test_answers_do_not_repeat_images(client: httpx.Client, path: str) -> None:
    body = {"query": "q", "documents": [IMAGE, {"text": "words", **IMAGE}]}
    found = good(client, path, {**body, "return_documents": True})["results"]
    shown = {result["index"]: result["document"] for result in found}
    assert shown == {0: {"text": ""}, 1: {"text": "words"}}


BROKEN = bare(b"no image")
WRONG: list[tuple[Any, str, str]] = [
    ({"image": "https://a.example/b.png"}, "documents[1].image", "nothing is fetched"),
    ({"image": BROKEN}, "documents[1].image", "PNG, JPEG"),
    ({"text": "a", "image": BROKEN}, "documents[1].image", "PNG, JPEG"),
    ({"image": 5}, "documents[1].image", "wanted a text"),
    ({"text": 5, **IMAGE}, "documents[1]", "wanted a text"),
    ({"content": []}, "documents[1].content", "list of parts"),
    ({"content": 5}, "documents[1].content", "list of parts"),
    ({"content": [text("a"), part(BROKEN)]}, "documents[1].content[1].image_url.url", "PNG, JPEG"),
    ({"content": [part("file:///etc/passwd")]}, "documents[1].content[0].image_url", "fetched"),
    ({"content": [{"type": "image_url"}]}, "documents[1].content[0].image_url", "wanted a text"),
    ({"content": [{"type": "text", "text": 1}]}, "documents[1].content[0].text", "wanted a text"),
    ({"content": [{"type": "video_url"}]}, "documents[1].content[0]", "text or image_url"),
    ({"content": ["a"]}, "documents[1].content[0]", "text or image_url"),
    (
        {"content": [part(data_url(ONE)), part(data_url(THREE))]},
        "documents[1].content[1].image_url",
        "several images",
    ),
    ({"content": [text("a")] * 65}, "documents[1].content", "65 parts"),
    ({"content": [text("a")], **IMAGE}, "documents[1]", "content beside text or image"),
    ({"content": "a", **IMAGE}, "documents[1]", "content beside text or image"),
    ({"text": "a", "content": [part(data_url(ONE))]}, "documents[1]", "content beside text"),
    ({"text": None}, "documents[1]", "wanted a text"),
]


@pytest.mark.parametrize(("document", "place", "told"), WRONG)
def test_what_is_refused_and_where(
    client: httpx.Client, document: Any, place: str, told: str
) -> None:
    for path in (SIMPLE, V1):
        body = {"query": "q", "documents": ["a", document]}
        message = assert_superset(client.post(path, json=body), 400)
        assert message.startswith(place)
        assert told in message
    body = {"queries": "q", "documents": ["a", document]}
    message = assert_vllm(client.post(SCORE, json=body), 400)
    assert message.startswith(place)


def test_a_query_is_text(client: httpx.Client) -> None:
    query = {"content": [text("q"), part(data_url(ONE))]}
    body = {"data_1": [query], "data_2": ["a"]}
    message = assert_vllm(client.post(SCORE, json=body), 400)
    assert message.startswith("data_1[0].content[1].image_url.url: a query is text")
    plain = {"data_1": [{"content": [text("q")]}], "data_2": ["a"], "use_activation": False}
    wanted = scores(client, "a")
    assert good(client, SCORE, plain)["data"][0]["score"] == pytest.approx(wanted[0])


def test_cohere_s_second_version_has_texts_alone(client: httpx.Client) -> None:
    body = {"query": "q", "documents": [IMAGE]}
    assert "documents[0]" in assert_v2(client.post(V2, json=body), 400)


def test_vllm_s_settings_of_images_are_refused_beside_images(client: httpx.Client) -> None:
    body = {"mm_processor_kwargs": {"max_input_tiles": 1}}
    documents = {"query": "q", "documents": [IMAGE]}
    found = assert_superset(client.post(V1, json={**documents, **body}), 400)
    assert found.startswith("mm_processor_kwargs")
    pairs = {"text_1": "q", "text_2": [{"content": [part(data_url(ONE))]}]}
    assert assert_vllm(client.post(SCORE, json={**pairs, **body}), 400).startswith("mm_proc")
    good(client, V1, {"query": "q", "documents": ["a"], **body})


def test_what_does_not_fit_beside_an_image(client: httpx.Client) -> None:
    long = {"text": "x" * 230, "image": bare(THREE)}
    message = assert_superset(client.post(SIMPLE, json={"query": "q", "documents": [long]}), 422)
    assert message.endswith("exceeds maximum allowed token size 256")
    cut = client.post(V1, json={"query": "q", "documents": [long]})
    assert (cut.status_code, cut.headers["x-truncated-passages"]) == (200, "1")


def test_many_tiles_at_once(client: httpx.Client) -> None:
    documents = [{"image": bare(png(150, 150, seed))} for seed in range(5)]
    body = {"query": "q", "documents": documents}
    assert "RERANK_IMAGE_MAX_TILES" in assert_superset(client.post(V1, json=body), 400)


def test_a_text_model_says_that_it_takes_none(mock_in_process: InProcess) -> None:
    http = mock_in_process.http
    for document, place in (
        (IMAGE, "documents[0].image"),
        ({"text": "a", "image": bare(FIVE)}, "documents[0].image"),
        ({"content": [part(data_url(ONE))]}, "documents[0].content[0].image_url.url"),
    ):
        body = {"query": "q", "documents": [document]}
        message = assert_superset(http.post(SIMPLE, json=body), 400)
        assert message == f"{place}: this model takes text, not images"
    good(http, SIMPLE, {"query": "q", "documents": [{"content": [text("a")]}]})
