"""POST /v1/embeddings with images: modality, what is in a string, and what is refused."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from runtime.embedder import Embedder
from runtime.opening import open_embedder
from runtime.requests import EmbedRequest, Passage
from server.names import NIM_IMAGE_IDS
from server.time_slices import SLICE_BYTES, TimeSlices
from tests.server.in_process import InProcess, Serve
from tests.server.surfaces.images import FIVE, ONE, THREE, bare, data_url
from tests.server.surfaces.test_openai import assert_error, vectors

PATH = "/v1/embeddings"
TOLERANCE = 2e-5
URL = data_url(ONE)


@pytest.fixture
def client(vision_server: InProcess) -> Iterator[httpx.Client]:
    """Proves, after each test, that the next request works."""
    yield vision_server.http
    assert post(vision_server.http, "text").status_code == 200


@pytest.fixture(scope="module")
def embedder(vision_embed_artifact: Path) -> Iterator[Embedder]:
    """The runtime itself."""
    with closing(open_embedder(vision_embed_artifact)) as model:
        yield model


def post(client: httpx.Client, *inputs: str, **more: Any) -> httpx.Response:
    body = {"input": list(inputs), "input_type": "passage", **more}
    return client.post(PATH, json=body)


def assert_vectors(response: httpx.Response, embedder: Embedder, *passages: Passage) -> None:
    found = vectors(response)
    wanted = np.concatenate(
        [embedder.embed(EmbedRequest([one], "passage")).vectors for one in passages]
    )
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE, rtol=0)


def test_texts_images_and_both(client: httpx.Client, embedder: Embedder) -> None:
    inputs = ["a text", data_url(THREE), f"a caption\n{URL}", "another"]
    passages = [Passage("a text"), Passage("", THREE), Passage("a caption", ONE)]
    passages += [Passage("another")]
    for modality in (None, ["text", "image", "text_image", "text"]):
        assert_vectors(post(client, *inputs, modality=modality), embedder, *passages)


@pytest.mark.parametrize("modality", ["image", ["image"], None])
def test_one_modality_is_that_of_all(
    client: httpx.Client, embedder: Embedder, modality: Any
) -> None:
    found = post(client, URL, data_url(FIVE), modality=modality)
    assert_vectors(found, embedder, Passage("", ONE), Passage("", FIVE))


@pytest.mark.parametrize("image", [URL, bare(ONE), f'<img src="{URL}">', f"\n{URL}\n"])
def test_an_image_alone(client: httpx.Client, embedder: Embedder, image: str) -> None:
    assert_vectors(post(client, image, modality="image"), embedder, Passage("", ONE))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (f"a caption\n{URL}", "a caption"),
        (f"a caption {URL}", "a caption"),
        (f"a caption{URL}", "a caption"),
        (f"{URL}\na caption", "a caption"),
        (f'a caption <img src="{URL}">', "a caption"),
        (f"a caption\n<IMG alt='a page' src='{URL}' width=20 />", "a caption"),
        (f'<img src="{URL}">a caption', "a caption"),
        (f'what\n<img src="{URL}"> is it?', "what is it?"),
        (f"two lines\n\n{URL}", "two lines\n"),
        (f"in ({URL}) and behind", "in () and behind"),
        (f'a < b <img title="x" {URL}', 'a < b <img title="x"'),
        (f"data:image/png and {URL}", "data:image/png and"),
        (URL, ""),
    ],
)
def test_a_text_with_an_image(
    client: httpx.Client, embedder: Embedder, given: str, text: str
) -> None:
    assert_vectors(post(client, given, modality="text_image"), embedder, Passage(text, ONE))


@pytest.mark.parametrize("text", [f"see {URL[:60]}", "<img src='a.png'>", "data:image/png;base64,"])
def test_text_is_text_if_it_is_called_so(
    client: httpx.Client, embedder: Embedder, text: str
) -> None:
    for input_type in ("passage", "query"):
        found = post(client, text, modality="text", input_type=input_type)
        wanted = embedder.embed(EmbedRequest([text], input_type)).vectors  # type: ignore[arg-type]
        np.testing.assert_allclose(vectors(found), wanted, atol=TOLERANCE, rtol=0)


def test_usage_counts_the_image(client: httpx.Client, embedder: Embedder) -> None:
    passage = Passage("a caption", FIVE)
    wanted = int(embedder.embed(EmbedRequest([passage], "passage")).token_counts.sum())
    usage = post(client, f"a caption {data_url(FIVE)}").json()["usage"]
    assert usage == {"prompt_tokens": wanted, "total_tokens": wanted}


@pytest.mark.parametrize("given", [{"input_type": "query"}, {"model": "X-query"}])
@pytest.mark.parametrize("modality", [None, "image", "text_image"])
def test_an_image_is_no_query(
    client: httpx.Client, given: dict[str, str], modality: str | None
) -> None:
    if "model" in given:
        given = {"model": f"{NIM_IMAGE_IDS['embed'][0]}-query"}
    body = {"input": URL, "modality": modality, **given}
    found = assert_error(client.post(PATH, json=body), 400, "input")
    assert "modality text" in found["message"]


def test_an_image_needs_no_input_type(client: httpx.Client, embedder: Embedder) -> None:
    assert_vectors(client.post(PATH, json={"input": URL}), embedder, Passage("", ONE))
    assert_error(client.post(PATH, json={"input": [URL, "a text"]}), 400, None)


def test_the_default_input_type_counts(serve: Serve, vision_embed_artifact: Path) -> None:
    model = {"EMBED_MODEL_DIR": str(vision_embed_artifact)}
    server = serve({**model, "EMBED_DEFAULT_INPUT_TYPE": "query"})
    assert_error(server.http.post(PATH, json={"input": URL}), 400, "input")
    assert post(server.http, URL).status_code == 200


@pytest.mark.parametrize("name", NIM_IMAGE_IDS["embed"])
def test_nvidia_s_names_of_vision_models(client: httpx.Client, name: str) -> None:
    assert post(client, URL, model=name).json()["model"] == name
    body = {"input": URL, "model": f"{name}-passage"}
    assert client.post(PATH, json=body).status_code == 200


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({"modality": "image_text"}, "modality", "text, image, text_image"),
        ({"modality": ["image", "video"]}, "modality", "text, image, text_image"),
        ({"modality": ["image"] * 3}, "modality", "3 values for 2 inputs"),
        ({"modality": []}, "modality", "0 values for 2 inputs"),
        ({"modality": 1}, "modality", ""),
        ({"input": ["a", "b"], "modality": "image"}, "input.0", "not base64"),
        ({"input": [URL, "b"], "modality": "text_image"}, "input.1", "found no image"),
        ({"input": [URL, f"b {URL}"], "modality": "image"}, "input.1", "text_image"),
        ({"input": ["a", f"b {URL} {URL}"]}, "input.1", "several images"),
        ({"input": ["a", "https://a.example/b.png"], "modality": "image"}, "input.1", "fetched"),
        ({"input": ["a", data_url(b"no image...")]}, "input.1", "send modality text if it is"),
        ({"input": ["a", f"caption {URL}A"]}, "input.1", "send modality text if it is text"),
        ({"input": ["a", f"b {URL}A"], "modality": "text_image"}, "input.0", "found no image"),
        ({"input": f"caption {URL}A"}, "input", "not base64"),
        ({"input": ["a", f"caption {URL[:-8]}-_-_-_-_"]}, "input.1", "not base64"),
        ({"input": ["a", "caption data:image/png;base64, and so on"]}, "input.1", "is empty"),
    ],
)
def test_what_is_refused_and_where(
    client: httpx.Client, body: dict[str, Any], param: str, told: str
) -> None:
    given = {"input": ["a", URL], "input_type": "passage", **body}
    found = assert_error(client.post(PATH, json=given), 400, param)
    assert told in found["message"]


def test_a_text_model_embeds_what_has_a_data_url_as_text(mock_in_process: InProcess) -> None:
    http = mock_in_process.http
    text = "see data:image/png;base64,AAAA"
    plain = vectors(post(http, text, modality="text"))
    np.testing.assert_array_equal(vectors(post(http, text)), plain)
    for modality in ("image", "text_image", ["image"]):
        found = assert_error(post(http, text, modality=modality), 400, "modality")
        assert "embeds text only" in found["message"]


def test_a_text_model_refuses_an_image_that_is_all_of_an_input(mock_in_process: InProcess) -> None:
    http = mock_in_process.http
    found = assert_error(post(http, "a", URL, truncate="END"), 400, "input.1")
    assert "send modality text if it is text" in found["message"]
    assert post(http, "a", URL, truncate="END", modality="text").status_code == 200


HEADS = ["Data:image/png;base64,", "data:image/png; charset=utf-8;base64,"]
HEADS += ["data:image/png;name=page%201.png;base64,", "DATA:IMAGE/PNG;BASE64,"]
OTHER_HEADS = ["data:;base64,", "data:application/octet-stream;base64,"]


@pytest.mark.parametrize("head", HEADS + OTHER_HEADS)
def test_heads_of_data_urls(client: httpx.Client, embedder: Embedder, head: str) -> None:
    url = head + bare(ONE)
    both = post(client, f"a caption\n{url}", modality="text_image")
    assert_vectors(both, embedder, Passage("a caption", ONE))
    assert_vectors(post(client, url, modality="image"), embedder, Passage("", ONE))
    if head in HEADS:
        assert_vectors(post(client, url), embedder, Passage("", ONE))


def test_long_texts_are_searched_in_time_slices(
    serve: Serve, vision_embed_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve({"EMBED_MODEL_DIR": str(vision_embed_artifact)})
    waits = 0
    wait = TimeSlices.wait

    async def counting(slices: TimeSlices) -> None:
        nonlocal waits
        waits += 1
        await wait(slices)

    monkeypatch.setattr(TimeSlices, "wait", counting)
    text = "x" * (3 * SLICE_BYTES - 15)
    found = assert_error(post(server.http, f"{text} {URL}"), 422, None)
    others = waits
    assert "exceeds maximum" in found["message"]
    assert_error(post(server.http, f"{text} {URL}", modality="text"), 422, None)
    assert others > 2 + (waits - others)
