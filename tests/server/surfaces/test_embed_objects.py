"""POST /v1/embeddings with Jina's objects and vLLM's messages: vectors, and what is refused."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from runtime.embedder import Embedder
from runtime.opening import open_embedder
from runtime.postprocess import InputType
from runtime.requests import EmbedRequest, Passage
from tests.server.in_process import InProcess
from tests.server.surfaces.images import FIVE, ONE, THREE, bare, data_url
from tests.server.surfaces.test_document_images import part, text
from tests.server.surfaces.test_openai import assert_error, vectors

PATH = "/v1/embeddings"
TOLERANCE = 2e-5
CAPTION = "a caption"
IMAGE = {"image": bare(ONE)}


@pytest.fixture
def client(vision_server: InProcess) -> Iterator[httpx.Client]:
    """Proves, after each test, that the next request works."""
    yield vision_server.http
    assert ask(vision_server.http, "input", ["text"], input_type="passage").status_code == 200


@pytest.fixture(scope="module")
def embedder(vision_embed_artifact: Path) -> Iterator[Embedder]:
    """The runtime itself."""
    with closing(open_embedder(vision_embed_artifact)) as model:
        yield model


def ask(client: httpx.Client, field: str, value: Any, **more: Any) -> httpx.Response:
    return client.post(PATH, json={field: value, **more})


def message(*parts: dict[str, Any], role: str = "document") -> dict[str, Any]:
    return {"role": role, "content": list(parts)}


def assert_vectors(
    found: httpx.Response, embedder: Embedder, *wanted: Passage, kind: InputType = "passage"
) -> None:
    rows = [embedder.embed(EmbedRequest([one], kind)) for one in wanted]
    vector_rows = np.concatenate([row.vectors for row in rows])
    np.testing.assert_allclose(vectors(found), vector_rows, atol=TOLERANCE, rtol=0)
    tokens = sum(int(row.token_counts.sum()) for row in rows)
    assert found.json()["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_objects_beside_texts(client: httpx.Client, embedder: Embedder) -> None:
    inputs = ["first", {"text": "second"}, IMAGE, {"text": CAPTION, "image": data_url(THREE)}]
    wanted = Passage("first"), Passage("second"), Passage("", ONE), Passage(CAPTION, THREE)
    for given in ({"input_type": "passage"}, {"task": "retrieval.passage"}):
        assert_vectors(ask(client, "input", inputs, **given), embedder, *wanted)


def test_a_text_in_an_object_is_text(client: httpx.Client, embedder: Embedder) -> None:
    url = "data:image/png;base64,AAAA"
    found = ask(client, "input", [{"text": url}], input_type="passage")
    assert_vectors(found, embedder, Passage(url))


def test_an_image_in_an_object_needs_no_input_type(
    client: httpx.Client, embedder: Embedder
) -> None:
    assert_vectors(ask(client, "input", [IMAGE]), embedder, Passage("", ONE))


@pytest.mark.parametrize("field", ["messages", "input"])
def test_messages(client: httpx.Client, embedder: Embedder, field: str) -> None:
    both = message(text("a "), part(data_url(FIVE)), text("caption"))
    assert_vectors(ask(client, field, [both]), embedder, Passage(CAPTION, FIVE))
    alone = message(part(data_url(THREE)))
    words = {"role": "document", "content": "words"}
    batch = [[alone], [both], [words]]
    wanted = Passage("", THREE), Passage(CAPTION, FIVE), Passage("words")
    assert_vectors(ask(client, field, batch), embedder, *wanted)


def test_the_role_is_the_input_type(client: httpx.Client, embedder: Embedder) -> None:
    query = message(text("words"), role="query")
    assert_vectors(ask(client, "messages", [query]), embedder, Passage("words"), kind="query")
    other = message(text("words"), role="user")
    found = ask(client, "messages", [other], input_type="query")
    assert_vectors(found, embedder, Passage("words"), kind="query")
    assert_error(ask(client, "messages", [other]), 400, None)  # which asks for input_type
    found = ask(client, "messages", [query], input_type="passage")
    assert "differ" in assert_error(found, 400, "role")["message"]


def test_an_input_comes_before_messages(client: httpx.Client, embedder: Embedder) -> None:
    found = ask(client, "messages", [message(part("no image"))], input=["a"], input_type="passage")
    assert_vectors(found, embedder, Passage("a"))


DOCUMENT = message(text("words"))
URL = data_url(ONE)
WRONG: list[tuple[str, Any, str, str]] = [
    ("input", ["a", {"image": "https://a.example/b.png"}], "input.1.image", "nothing is fetched"),
    ("input", ["a", {"image": bare(b"no image")}], "input.1.image", "PNG, JPEG"),
    ("input", ["a", {"image": 5}], "input.1.image", "wanted a text"),
    ("input", ["a", {"text": 5}], "input.1", "wanted a text"),
    ("input", ["a", {}], "input.1", "wanted the field text"),
    ("input", ["a", {"text": " "}], "input.1", "blank"),
    ("input", ["a", [DOCUMENT]], "input.0", "list of one message"),
    ("input", ["a", DOCUMENT], "input", "found 2 messages"),
    ("input", {"text": "a"}, "input", ""),
    ("input", None, "input", "wanted the field"),
    ("messages", [], "messages", "found no texts"),
    ("messages", [[]], "messages.0", "found 0 messages"),
    ("messages", [DOCUMENT] * 2, "messages", "found 2 messages"),
    ("messages", [[DOCUMENT], [DOCUMENT] * 2], "messages.1", "found 2 messages"),
    ("messages", [[DOCUMENT], DOCUMENT], "messages.1", "list of one message"),
    ("messages", ["a"], "messages.0", ""),
    ("messages", [{"content": "a"}], "messages.0.role", "wanted a text"),
    ("messages", [{"role": "document"}], "messages.0.content", "list of parts"),
    ("messages", [message(text(" "))], "messages.0.content", "blank"),
    ("messages", [[DOCUMENT], [message(text(" "))]], "messages.1.0.content", "blank"),
    ("messages", [message(part("AAA"))], "messages.0.content.0.image_url.url", "not base64"),
    ("messages", [message(part(URL), part(URL))], "messages.0.content.1.image_url.url", "several"),
    ("messages", [[DOCUMENT], [message(text("q"), role="query")]], "messages", "several roles"),
    (
        "messages",
        [message(part(URL), role="query")],
        "messages.0.content.0.image_url.url",
        "an image is no query",
    ),
]


@pytest.mark.parametrize(("field", "value", "param", "told"), WRONG)
def test_what_is_refused_and_where(
    client: httpx.Client, field: str, value: Any, param: str, told: str
) -> None:
    more = {"input_type": "passage"} if field == "input" else {}
    found = assert_error(ask(client, field, value, **more), 400, param)
    assert told in found["message"]


def test_an_object_s_image_is_no_query(client: httpx.Client) -> None:
    found = ask(client, "input", [IMAGE], task="retrieval.query")
    assert "no query" in assert_error(found, 400, "input.0.image")["message"]


def test_what_says_itself_what_it_is_has_no_modality(client: httpx.Client) -> None:
    for field, value in (("input", [IMAGE]), ("messages", [DOCUMENT])):
        found = ask(client, field, value, modality="image")
        assert "leave it out" in assert_error(found, 400, "modality")["message"]


@pytest.mark.parametrize("name", ["mm_processor_kwargs", "media_io_kwargs"])
def test_settings_of_images_are_refused_beside_images(client: httpx.Client, name: str) -> None:
    settings = {name: {"image": {"max_input_tiles": 1}}}
    for field, value in (("messages", [message(part(URL))]), ("input", [URL]), ("input", [IMAGE])):
        assert_error(ask(client, field, value, **settings), 400, name)
    assert ask(client, "messages", [DOCUMENT], **settings).status_code == 200


def test_a_text_model_says_that_it_takes_no_images(mock_in_process: InProcess) -> None:
    for field, value, place in (
        ("input", ["a", IMAGE], "input.1.image"),
        ("messages", [message(part(URL), role="query")], "messages.0.content.0.image_url.url"),
    ):
        more = {"input_type": "passage"} if field == "input" else {}
        found = assert_error(ask(mock_in_process.http, field, value, **more), 400, place)
        assert "takes text, not images" in found["message"]


def test_conversations_are_limited_in_number(client: httpx.Client) -> None:
    assert_error(ask(client, "messages", [[DOCUMENT]] * 31), 400, "messages")
